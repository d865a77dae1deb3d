"""Classic mistakes of lab 2."""

from course.mutants import Mutant

_LOSS = "return -(weights * log_probs * mask).sum() / len(log_probs)"
_TO_GO = "return rewards.flip(1).cumsum(1).flip(1)"
_OTHERS = "return (returns.sum() - returns) / (len(returns) - 1)"
_MEAN = "return (probabilities * (returns - baseline)) @ scores"
_SECOND = "second = probabilities @ ((returns - baseline) ** 2 * (scores**2).sum(1))"
_LENGTHS = "lengths = probabilities * (scores**2).sum(1)"

MUTANTS = [
    Mutant("gradient descent on the return", _LOSS, _LOSS.replace("-(", "("), "wrong sign"),
    Mutant("mean per token", _LOSS, _LOSS.replace("len(log_probs)", "mask.sum()"), "mean per token"),
    Mutant("missing mask", _LOSS, _LOSS.replace(" * mask", ""), "padding"),
    Mutant("sum over texts", _LOSS, _LOSS.replace(" / len(log_probs)", ""), "number of texts"),
    Mutant(
        "mean over the padded width", _LOSS, "return -(weights * log_probs * mask).mean()", "padded width"
    ),
    Mutant(
        "each text by its own length",
        _LOSS,
        "return -((weights * log_probs * mask).sum(1) / mask.sum(1)).mean()",
        "length bias",
    ),
    Mutant(
        "probability for log-probability", _LOSS, _LOSS.replace("log_probs *", "log_probs.exp() *"), "∇log π"
    ),
    Mutant("no graph", _LOSS, _LOSS.replace("log_probs *", "log_probs.detach() *"), "cut the graph"),
    Mutant("what came before", _TO_GO, "return rewards.cumsum(1)", "what came before"),
    Mutant("reward one token early", _TO_GO, _TO_GO + " - rewards", "own reward"),
    Mutant("whole return", _TO_GO, "return rewards.sum(1, keepdim=True).expand_as(rewards)", "whole return"),
    Mutant("baseline includes itself", _OTHERS, "return returns.mean().expand_as(returns)", "itself"),
    Mutant("n for n − 1", _OTHERS, _OTHERS.replace(" - 1)", ")"), "n − 1"),
    Mutant(
        "expectation without probabilities",
        _MEAN,
        "return (returns - baseline) @ scores / len(returns)",
        "probabilities",
    ),
    Mutant(
        "baseline after the probability",
        _MEAN,
        "return (probabilities * returns - baseline) @ scores",
        "changes the expectation",
    ),
    Mutant("second moment", "return second - (mean**2).sum()", "return second", "second moment"),
    Mutant(
        "variance without the baseline",
        _SECOND,
        _SECOND.replace("(returns - baseline)", "returns"),
        "baseline is there",
    ),
    Mutant("mean return as the best baseline", _LENGTHS, "lengths = probabilities", "mean return"),
    Mutant("best baseline without probabilities", _LENGTHS, "lengths = (scores**2).sum(1)", "probabilities"),
    Mutant(
        "norm for its square",
        _LENGTHS,
        "lengths = probabilities * (scores**2).sum(1).sqrt()",
        "has its square",
    ),
]
