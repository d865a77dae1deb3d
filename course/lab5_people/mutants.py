"""Classic mistakes of lab 5."""

from course.mutants import Mutant

_BOTH = "both = ~np.isnan(marks[first]) & ~np.isnan(marks[second])"
_EQUAL = "return equal / total"
_SECOND = "for second in range(first):"
_SINGLE = "if count.sum() > 1:"
_PAIRS = "pairs = np.outer(count, count) - np.diag(count)"
_TABLE = "table += pairs / (count.sum() - 1)"
_MIDDLE = "middle = np.cumsum(count) - count / 2"
_ORDINAL = "return np.asarray((middle[:, None] - middle[None, :]) ** 2)"
_CHANCE = "by_chance = (np.outer(count, count) * distances).sum() / (n * (n - 1))"
_ALPHA = "return float(1 - seen / by_chance)"
_FITTED = "return fitted[:texts], fitted[texts:]"
_DESIGN = "design = np.stack([np.ones(len(marks)), quality, lengths], axis=1)"
_SLOPE = "return float(np.linalg.lstsq(design, marks, rcond=None)[0][2])"

MUTANTS = [
    Mutant(
        "gaps disagree", _BOTH, "both = np.ones(marks.shape[1], dtype=bool)", "a gap counts as disagreement"
    ),
    Mutant("not divided by m − 1", _TABLE, "table += pairs", "marks less one"),
    Mutant(
        "chance with replacement", _CHANCE, _CHANCE.replace("(n * (n - 1))", "n**2"), "without replacement"
    ),
    Mutant(
        "means for shifts",
        _FITTED,
        "return np.nanmean(marks, axis=0), np.nanmean(marks, axis=1) - np.nanmean(marks)",
        "same texts",
    ),
    Mutant("agrees with himself", _SECOND, "for second in range(first + 1):", "agrees with himself"),
    Mutant("divided by m", _TABLE, "table += pairs / count.sum()", "it is that less one"),
    Mutant("divided by the raters", _TABLE, "table += pairs / (len(marks) - 1)", "number of raters"),
    Mutant("a mark with itself", _PAIRS, "pairs = np.outer(count, count)", "paired with itself"),
    Mutant(
        "one order only",
        _PAIRS,
        "pairs = np.triu(np.outer(count, count) - np.diag(count))",
        "both orders",
    ),
    Mutant(
        "single marks count",
        _SINGLE,
        "if count.sum() == 1:\n            table += np.diag(count)\n        if count.sum() > 1:",
        "single mark",
    ),
    Mutant(
        "ends in full",
        _ORDINAL,
        "return np.asarray((abs(middle[:, None] - middle[None, :]) + (count[:, None] + count) / 2 "
        "* (1 - np.eye(len(count)))) ** 2)",
        "count half",
    ),
    Mutant("one end only", _MIDDLE, "middle = np.cumsum(count)", "both count half"),
    Mutant(
        "distances not squared", _ORDINAL, "return np.abs(middle[:, None] - middle[None, :])", "not squared"
    ),
    Mutant("interval for ordinal", _MIDDLE, "middle = np.arange(len(count)) * 1.0", "interval"),
    Mutant("one minus is missing", _ALPHA, "return float(seen / by_chance)", "1 − is missing"),
    Mutant("not corrected for chance", _ALPHA, "return float(1 - seen)", "not corrected for chance"),
    Mutant("uniform chance", _CHANCE, "by_chance = distances.mean()", "own frequencies"),
    Mutant(
        "texts' means taken off",
        _FITTED,
        "return np.nanmean(marks, axis=0), np.nanmean(marks - np.nanmean(marks, axis=0), axis=1)",
        "fit both",
    ),
    Mutant("shift's sign", _FITTED, "return fitted[:texts], -fitted[texts:]", "wrong sign"),
    Mutant(
        "compared with the first",
        _FITTED,
        "return fitted[:texts] + fitted[texts], fitted[texts:] - fitted[texts]",
        "add up to 0",
    ),
    Mutant("texts' plain means", _FITTED, "return np.nanmean(marks, axis=0), fitted[texts:]", "texts' means"),
    Mutant(
        "slope over length",
        _DESIGN,
        "design = np.stack([np.ones(len(marks)), 0 * quality, lengths], axis=1)",
        "hold the quality fixed",
    ),
    Mutant(
        "no constant",
        _DESIGN,
        "design = np.stack([0 * quality, quality, lengths], axis=1)",
        "constant is missing",
    ),
    Mutant("correlation", _SLOPE, "return float(np.corrcoef(marks, lengths)[0, 1])", "correlation"),
    Mutant(
        "coefficient of the quality", _SLOPE, _SLOPE.replace("[2])", "[1])"), "coefficient of the quality"
    ),
]
