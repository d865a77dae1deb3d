"""Classic mistakes of lab 1."""

from course.mutants import Mutant

_STEP = "return grown, action == eos or len(grown) == max_tokens"
_LISTED = "(finished if done else longer).append(grown)"
_SHIFTED = "shifted = logits - logits.max(axis=-1, keepdims=True)"
_SUM = "np.exp(shifted).sum(axis=-1, keepdims=True)"
_SAID = "said = log_softmax(logits / temperature)"
_LOOKUP = "found[row, t] = said[row, place - 1, tokens[row, place]]"
_EXPECTED = "return float(np.exp(log_probs) @ returns)"
_RETURN = "following = rewards[t] + gamma * following"
_VALUE = "return {state: paid[state] / mass[state] for state in mass}"

MUTANTS = [
    Mutant("state of one token", _STEP, _STEP.replace("return grown,", "return (action,),"), "not Markov"),
    Mutant("EOS does not end", _STEP, "return grown, len(grown) == max_tokens", "EOS"),
    Mutant("limit too late", _STEP, _STEP.replace("== max_tokens", "> max_tokens"), "limit"),
    Mutant("limit too early", _STEP, _STEP.replace("== max_tokens", ">= max_tokens - 1"), "limit"),
    Mutant(
        "EOS is no part of the text",
        "grown = (*completion, action)",
        "grown = completion if action == eos else (*completion, action)",
        "EOS",
    ),
    Mutant(
        "no texts that are cut",
        _LISTED,
        "(longer if not done else finished if action == eos else []).append(grown)",
        "limit cuts",
    ),
    Mutant("overflow", _SHIFTED, "shifted = logits", "overflow"),
    Mutant("softmax over the whole batch", _SUM, "np.exp(shifted).sum()", "last axis"),
    Mutant("logits of the token itself", _LOOKUP, _LOOKUP.replace("place - 1", "place"), "one place earlier"),
    Mutant("prompt counted", "place = start + t", "place = 1 + t", "prompt"),
    Mutant(
        "EOS has no probability", "for t in range(length):", "for t in range(length - 1):", "EOS is an action"
    ),
    Mutant(
        "padding read",
        "for t in range(length):",
        "for t in range(min(found.shape[1], tokens.shape[1] - start)):",
        "padding",
    ),
    Mutant("temperature ignored", _SAID, "said = log_softmax(logits)", "temperature"),
    Mutant("temperature upside down", _SAID, _SAID.replace("/", "*"), "divided by it"),
    Mutant(
        "temperature too late", _SAID, "said = log_softmax(logits) / temperature", "belongs to the logits"
    ),
    Mutant("plain mean", _EXPECTED, "return float(returns.mean())", "plain mean"),
    Mutant("log-probabilities as weights", _EXPECTED, "return float(log_probs @ returns)", "exponential"),
    Mutant("no discount", _RETURN, "following = rewards[t] + following", "γ"),
    Mutant(
        "what came before",
        "for t in reversed(range(len(rewards))):",
        "for t in range(len(rewards)):",
        "came before",
    ),
    Mutant("joint for conditional", _VALUE, "return paid", "conditional"),
]
