"""Classic mistakes of lab 7."""

from course.mutants import Mutant

_CENTRED = "centred = returns - returns.mean(1, keepdim=True)"
_SPREAD = "spread = (centred**2).mean(1, keepdim=True).sqrt()"
_SCALED = "scaled = centred / spread if std else centred"
_EQUAL = "return torch.where(spread > 1e-9, scaled, 0.0)"
_OTHERS = "others = (returns.sum(1, keepdim=True) - returns) / (returns.shape[1] - 1)"
_RLOO = "return returns - others"
_RATIO = "ratio = (log_probs - old_log_probs).exp()"
_SURROGATE = "surrogate = torch.minimum(ratio * own, ratio.clamp(1 - clip, 1 + clip) * own)"
_LOG_RATIO = "log_ratio = reference_log_probs - log_probs"
_K3 = "k3 = log_ratio.exp() - 1 - log_ratio"
_GAIN = "gain = torch.where(mask, surrogate - beta * k3, 0.0)"
_LOSS = "return -(gain.sum(1) / mask.sum(1)).mean()"
_WINS = "return (more + 0.5 * same) @ probabilities"
_LEVEL = "level = up_to**n - below**n  # the best has this return"
_SHARE = "return level * probabilities / (up_to - below)"
_BON_KL = "return math.log(n) - (n - 1) / n"
_IMPLICIT = "return beta * (log_probs - reference_log_probs)"
_BETTER = "better = implicit_rewards(chosen, reference_chosen, beta)"
_WORSE = "worse = implicit_rewards(rejected, reference_rejected, beta)"
_DPO = "return -F.logsigmoid(better - worse).mean()"

MUTANTS = [
    Mutant("std over the batch", _SPREAD, "spread = returns.std(correction=0)", "over each group"),
    Mutant("mean over the batch", _CENTRED, "centred = returns - returns.mean()", "its own prompt's"),
    Mutant("n − 1", _SPREAD, "spread = returns.std(1, keepdim=True)", "divisor n − 1"),
    Mutant("variance for its root", _SPREAD, _SPREAD.replace(".sqrt()", ""), "the variance"),
    Mutant("std without care", _EQUAL, "return scaled", "equal returns says nothing"),
    Mutant("ε for care", _SCALED, "scaled = centred / (spread + 1e-4) if std else centred", "add ε"),
    Mutant("std ignored", _SCALED, "scaled = centred", "divide"),
    Mutant("baseline includes itself", _OTHERS, "others = returns.mean(1, keepdim=True)", "the text itself"),
    Mutant("n for n − 1", _OTHERS, _OTHERS.replace(" - 1)", ")"), "k − 1"),
    Mutant("baseline for advantage", _RLOO, "return others", "the baseline"),
    Mutant(
        "others of the batch",
        _OTHERS,
        "others = (returns.sum() - returns) / (returns.numel() - 1)",
        "of the group",
    ),
    Mutant("mean per token", _LOSS, "return -gain.sum() / mask.sum()", "mean per token"),
    Mutant("sum per text", _LOSS, "return -gain.sum(1).mean()", "divides by"),
    Mutant("missing mask", _GAIN, "gain, mask = surrogate - beta * k3, torch.ones_like(mask)", "padding"),
    Mutant("ratio upside down", _RATIO, "ratio = (old_log_probs - log_probs).exp()", "π/π_old"),
    Mutant("no clip", _SURROGATE, "surrogate = ratio * own", "do not clip"),
    Mutant("maximum", _SURROGATE, _SURROGATE.replace("minimum", "maximum"), "pessimistic"),
    Mutant("k3's ratio", _LOG_RATIO, "log_ratio = log_probs - reference_log_probs", "upside down"),
    Mutant("k1 for k3", _K3, "k3 = -log_ratio", "k1"),
    Mutant("KL to the old policy", _LOG_RATIO, "log_ratio = old_log_probs - log_probs", "to the reference"),
    Mutant("bonus for the KL", _GAIN, _GAIN.replace("- beta", "+ beta"), "price is taken off"),
    Mutant("KL without gradient", _LOG_RATIO, _LOG_RATIO + ".detach()", "differentiate k3"),
    Mutant("ties lose", _WINS, "return more @ probabilities", "one half"),
    Mutant("ties win", _WINS, "return (more + same) @ probabilities", "one half"),
    Mutant("rivals alike", _WINS, "return (more + 0.5 * same).mean(1)", "probabilities"),
    Mutant("distribution function", _LEVEL, "level = up_to**n", "all are worse"),
    Mutant("density", _SHARE, "return n * probabilities * up_to ** (n - 1)", "ties"),
    Mutant("whole level for each", _SHARE, "return level", "shared"),
    Mutant("log n", _BON_KL, "return math.log(n)", "taken off"),
    Mutant("n − 1 for (n − 1)/n", _BON_KL, "return math.log(n) - (n - 1)", "not n − 1"),
    Mutant("bits", _BON_KL, _BON_KL.replace("log(", "log2("), "nats"),
    Mutant("missing reference", _IMPLICIT, "return beta * log_probs", "reference is missing"),
    Mutant("β on the wrong side", _IMPLICIT, "return (log_probs - reference_log_probs) / beta", "wrong side"),
    Mutant("pair order", _DPO, "return -F.logsigmoid(worse - better).mean()", "order of the pair"),
    Mutant(
        "log of the mean", _DPO, "return -torch.sigmoid(better - worse).mean().log()", "logarithm of the mean"
    ),
    Mutant("no logarithm", _DPO, "return -torch.sigmoid(better - worse).mean()", "lacks the logarithm"),
    Mutant("sum over pairs", _DPO, _DPO.replace(".mean()", ".sum()"), "mean over pairs"),
    Mutant("overflow", _DPO, "return -torch.sigmoid(better - worse).log().mean()", "logsigmoid"),
    Mutant("rejected stands still", _WORSE, _WORSE + ".detach()", "both texts"),
    Mutant("no reference for the chosen", _BETTER, "better = beta * chosen", "reference of the chosen"),
]
