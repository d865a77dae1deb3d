"""Classic mistakes of lab 8."""

from course.mutants import Mutant

_RANKS = "return np.asarray(below + (same + 1) / 2, dtype=np.float64)"
_RANKED = "a, b = ranks(x), ranks(y)"
_CORRELATION = "return float(a @ b / np.sqrt((a @ a) * (b @ b)))"
_PARTIAL = "return (sf - sg * fg) / float(np.sqrt((1 - sg**2) * (1 - fg**2)))"
_OTHER = "other = dict(pairs) | {second: first for first, second in pairs}"
_SWAPPED = 'return re.sub(r"\\w+", swapped, text)'
_CAPITAL = "return new[0].upper() + new[1:] if word[0].isupper() else new"
_LEVEL = "return 1 - alpha / tests / 2"
_CHANGES = "changes = (after - before) / scores.std()"
_REACH = "reach = t * changes.std(ddof=1) / np.sqrt(len(changes))"
_SIZE = "return float(np.abs(after - before).mean() / scores.std())"
_NAMED = "if abs(mean) >= least and (low > 0 or high < 0)]"
_SORTED = "return sorted(named, key=lambda name: -abs(effects[name][0]))"

MUTANTS = [
    Mutant(
        "ties in order", _RANKS, "return np.argsort(np.argsort(x, kind='stable')).astype(float) + 1", "ties"
    ),
    Mutant("smallest rank for ties", _RANKS, "return below + 1.0", "ties"),
    Mutant("argsort for ranks", _RANKS, "return np.argsort(x, kind='stable').astype(float)", "not the ranks"),
    Mutant("correlation without ranks", _RANKED, "a, b = x, y", "without ranks"),
    Mutant("covariance", _CORRELATION, "return float(a @ b / len(a))", "standard deviations"),
    Mutant("not at equal gold", _PARTIAL, "return sf", "not at equal gold"),
    Mutant(
        "gold off the scores only",
        _PARTIAL,
        "return (sf - sg * fg) / float(np.sqrt(1 - sg**2))",
        "scores only",
    ),
    Mutant("not divided by what is left", _PARTIAL, "return sf - sg * fg", "what is left"),
    Mutant("one direction", _OTHER, "other = dict(pairs)", "at once"),
    Mutant(
        "one after the other",
        _SWAPPED,
        "for a, b in pairs:\n"
        '        text = re.sub(rf"\\b{a}\\b", b, text)\n'
        '        text = re.sub(rf"\\b{b}\\b", a, text)\n'
        "    return text",
        "at once",
    ),
    Mutant(
        "parts of words",
        _SWAPPED,
        'return re.sub("|".join(map(re.escape, other)), swapped, text, flags=re.IGNORECASE)',
        "whole words",
    ),
    Mutant("capitals lost", _CAPITAL, "return new", "capital"),
    Mutant("no correction", _LEVEL, "return 1 - alpha / 2", "multiple tests"),
    Mutant("one end", _LEVEL, "return 1 - alpha / tests", "two ends"),
    Mutant("before less after", _CHANGES, _CHANGES.replace("after - before", "before - after"), "wrong sign"),
    Mutant("own unit", _CHANGES, "changes = after - before", "standard deviations of the scores"),
    Mutant(
        "unit of the changes", _CHANGES, "changes = (after - before) / (after - before).std(ddof=1)", "unit"
    ),
    Mutant(
        "two samples",
        _REACH,
        "reach = t * np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / len(before)) / scores.std()",
        "paired",
    ),
    Mutant("n for n − 1", _REACH, _REACH.replace("ddof=1", ""), "n − 1"),
    Mutant("spread for error", _REACH, "reach = t * changes.std(ddof=1)", "s/√n"),
    Mutant("signed swaps", _SIZE, "return float((after - before).mean() / scores.std())", "cancels"),
    Mutant("large enough", _NAMED, "if abs(mean) >= least]", "luck"),
    Mutant("certain enough", _NAMED, "if low > 0 or high < 0]", "worth naming"),
    Mutant("up only", _NAMED, "if mean >= least and low > 0]", "may go down"),
    Mutant("largest last", _SORTED, "return sorted(named, key=lambda name: abs(effects[name][0]))", "first"),
]
