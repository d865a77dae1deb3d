"""Classic mistakes of lab 3."""

from course.mutants import Mutant

_KL = "return -log_ratio, log_ratio**2 / 2, log_ratio.exp() - 1 - log_ratio"
_PRICE = "return (rewards - beta * (log_probs - reference_log_probs)) * mask"
_NEXT = "following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)"
_DELTA = "deltas = (rewards + gamma * following - values) * mask"
_FADE = "running = deltas[:, t] + gamma * lam * running"
_VARIANCE = "variance = ((x - mean) ** 2 * mask).sum() / mask.sum()"
_WHITE = "return (x - mean) / variance.sqrt() * mask"
_MEAN = "mean = (x * mask).sum() / mask.sum()"
_RATIO = "ratio = (log_probs - old_log_probs).exp()"
_SURROGATE = "surrogate = torch.minimum(ratio * advantages, clipped * advantages)"
_LOSS = "return -surrogate[mask].sum() / mask.sum()"
_BEST = "return torch.softmax(reference.log() + returns / beta, dim=0)"
_GOAL = "return (log_probs.exp() * (returns - beta * (log_probs - reference.log()))).sum()"

MUTANTS = [
    Mutant("k1's sign", _KL, _KL.replace("return -log", "return log"), "k1 has the wrong sign"),
    Mutant("k2 without its half", _KL, _KL.replace("**2 / 2", "**2"), "½"),
    Mutant(
        "k3's ratio",
        _KL,
        _KL.replace("log_ratio.exp() - 1 -", "(-log_ratio).exp() - 1 +"),
        "k3 has its ratio upside down",
    ),
    Mutant(
        "k3 without its logarithm", _KL, _KL.replace("exp() - 1 - log_ratio", "exp() - 1"), "k3 lacks log r"
    ),
    Mutant(
        "bonus for the KL", _PRICE, _PRICE.replace("rewards - beta", "rewards + beta"), "price is taken off"
    ),
    Mutant("no β", _PRICE, _PRICE.replace("beta * ", ""), "ignore β"),
    Mutant("price on padding", _PRICE, _PRICE.replace(" * mask", ""), "padding"),
    Mutant(
        "bootstrapping at EOS", "values = values * mask\n", "values = values.clone()\n", "bootstrap after EOS"
    ),
    Mutant("no λ", _FADE, _FADE.replace("lam * ", ""), "λ"),
    Mutant("λ without γ", _FADE, _FADE.replace("gamma * ", ""), "γλ"),
    Mutant("no critic", _DELTA, _DELTA.replace(" - values", ""), "γ V(s_{t+1}) − V(s_t)"),
    Mutant(
        "forwards in time",
        "for t in reversed(range(rewards.shape[1])):",
        "for t in range(rewards.shape[1]):",
        "backwards",
    ),
    Mutant(
        "std over the batch",
        _VARIANCE,
        "variance = torch.as_tensor(((x * mask - mean) ** 2).mean())",
        "padding",
    ),
    Mutant(
        "mean over padding",
        _MEAN + "\n    " + _VARIANCE,
        "mean, variance = x.mean(), x.var(correction=0)",
        "padding included",
    ),
    Mutant("n − 1", _VARIANCE, _VARIANCE.replace("/ mask.sum()", "/ (mask.sum() - 1)"), "n − 1"),
    Mutant("variance for its root", _WHITE, _WHITE.replace(".sqrt()", ""), "standard deviation"),
    Mutant("ratio upside down", _RATIO, "ratio = (old_log_probs - log_probs).exp()", "upside down"),
    Mutant("maximum", _SURROGATE, _SURROGATE.replace("minimum", "maximum"), "pessimistic"),
    Mutant("no minimum", _SURROGATE, "surrogate = clipped * advantages", "called back"),
    Mutant("no clip", _SURROGATE, "surrogate = ratio * advantages", "do not clip"),
    Mutant("padding in the loss", _LOSS, "return -surrogate.mean()", "padding"),
    Mutant("per text for per token", _LOSS, _LOSS.replace("mask.sum()", "len(mask)"), "mean over tokens"),
    Mutant("padded size", _LOSS, _LOSS.replace("mask.sum()", "mask.numel()"), "padded size"),
    Mutant("times β", _BEST, _BEST.replace("/ beta", "* beta"), "multiply by β"),
    Mutant("no reference", _BEST, "return torch.softmax(returns / beta, dim=0)", "forgets the reference"),
    Mutant(
        "overflow",
        _BEST,
        "tilted = reference * (returns / beta).exp()\n    return tilted / tilted.sum()",
        "overflows",
    ),
    Mutant(
        "KL the wrong way round",
        _GOAL,
        "return (log_probs.exp() * returns + beta * reference * (log_probs - reference.log())).sum()",
        "wrong way round",
    ),
    Mutant(
        "bonus in the objective",
        _GOAL,
        _GOAL.replace("returns - beta", "returns + beta"),
        "price is taken off",
    ),
]
