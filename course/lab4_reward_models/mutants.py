"""Classic mistakes of lab 4."""

from course.mutants import Mutant

_LOSS = "return functional.softplus(rejected - chosen).mean()"
_SURPRISE = "surprise = sigmoid(-(differences @ weights))"
_SLOPE = "return np.asarray(-(surprise @ differences) / len(chosen))"
_CENTRED = "return np.asarray(rewards - rewards.mean())"
_TIES = "return float(np.mean((np.sign(chosen - rejected) + 1) / 2))"
_PLACE = "place = np.minimum((forecasts * bins).astype(int), bins - 1)"
_FORECAST = "forecast = np.bincount(place, forecasts, bins)[there] / count[there]"
_GAP = "return float(np.abs(forecast - came_true) @ count / count.sum())"
_HALF = "half = z / scale * float(np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))"

MUTANTS = [
    Mutant("pair order", _LOSS, _LOSS.replace("rejected - chosen", "chosen - rejected"), "wrong way round"),
    Mutant("sum for mean", _LOSS, _LOSS.replace("mean()", "sum()"), "mean over pairs"),
    Mutant("no logarithm", _LOSS, "return -functional.sigmoid(chosen - rejected).mean()", "logarithm"),
    Mutant("overflow", _LOSS, "return -functional.sigmoid(chosen - rejected).log().mean()", "overflows"),
    Mutant("hinge", _LOSS, "return (1 - chosen + rejected).clamp_min(0).mean()", "hinge"),
    Mutant("sign of the loss", _LOSS, _LOSS.replace("return ", "return -"), "wrong sign"),
    Mutant("sign of the gradient", _SLOPE, _SLOPE.replace("-(surprise", "(surprise"), "wrong sign"),
    Mutant("likely pairs teach", _SURPRISE, _SURPRISE.replace("-(differences", "(differences"), "surprises"),
    Mutant("all pairs alike", _SURPRISE, "surprise = np.ones(len(chosen))", "surprise"),
    Mutant("sum of gradients", _SLOPE, _SLOPE.replace(" / len(chosen)", ""), "mean over pairs"),
    Mutant("not centred", _CENTRED, "return rewards - rewards[-1]", "mean must be 0"),
    Mutant(
        "losses for wins",
        "games = wins + wins.T",
        "wins = wins.T\n    games = wins + wins.T",
        "wrong way round",
    ),
    Mutant(
        "imagined wins",
        "games = wins + wins.T",
        "wins = wins + 1 - np.eye(len(wins))\n    games = wins + wins.T",
        "imagined",
    ),
    Mutant("one step", "for _ in range(100):", "for _ in range(1):", "single step"),
    Mutant("shares for log-odds", _CENTRED, "return wins.sum(axis=1) / games.sum(axis=1)", "log-odds"),
    Mutant("ties are right", _TIES, "return float(np.mean(chosen >= rejected))", "tie"),
    Mutant("ties are wrong", _TIES, "return float(np.mean(chosen > rejected))", "tie"),
    Mutant(
        "bin of 1.0",
        _PLACE,
        "place = (forecasts * bins).astype(int)\n"
        "    forecasts, outcomes, place = (x[place < bins] for x in (forecasts, outcomes, place))",
        "1.0",
    ),
    Mutant("middle of the bin", _FORECAST, "forecast = ((np.arange(bins) + 0.5) / bins)[there]", "middle"),
    Mutant("bins count alike", _GAP, "return float(np.abs(forecast - came_true).mean())", "weigh them"),
    Mutant("gaps cancel", _GAP, "return float((forecast - came_true) @ count / count.sum())", "cancel"),
    Mutant(
        "Wald's interval",
        _HALF,
        "centre, half = share, z * float(np.sqrt(share * (1 - share) / count))",
        "Wald",
    ),
    Mutant(
        "one standard deviation",
        _HALF,
        "z = 1.0\n    scale = 1 + z**2 / count\n    centre = (share + z**2 / (2 * count)) / scale\n    "
        + _HALF,
        "one standard deviation",
    ),
]
