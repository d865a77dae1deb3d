"""Classic mistakes of lab 6."""

from course.mutants import Mutant

_KL = "return math.log(n) - (n - 1) / n"
_LAW = "return np.asarray(((below + equal) ** n - below**n) * probabilities / equal)"
_DIVERGENCE = "return float(policy[written] @ np.log(policy[written] / reference[written]))"
_GAIN = "return float((policy @ rewards - mean) / np.sqrt(reference @ (rewards - mean) ** 2))"
_OVER = "return gain(policy, reference, proxy) - gain(policy, reference, gold)"
_RANKED = "ranked = gold[np.argsort(proxy)]"
_WEIGHTS = "return float(weights @ ranked)"
_ROOT = "d = np.sqrt(kl)"
_FITTED = "return float(alpha), float(beta)"
_PEAK = "return d**2, d * (alpha - beta * d)"
_SAID = "said = len(set(words) & set(facts)) / len(facts)"
_REWARD = "rewards.append(said - 0.1 * repeated - 0.1 * superlatives - 0.01 * len(words))"

MUTANTS = [
    Mutant("log n alone", _KL, "return math.log(n)", "(n − 1)/n is missing"),
    Mutant(
        "density in place of the law",
        _LAW,
        "return n * probabilities * (below + equal) ** (n - 1)",
        "densities",
    ),
    Mutant("ties all get the whole", _LAW, "return np.asarray((below + equal) ** n - below**n)", "share it"),
    Mutant("repetition pays", _SAID, "said = sum(word in facts for word in words)", "repetition pays"),
    Mutant("bits", _KL, "return math.log2(n) - (n - 1) / n", "bits"),
    Mutant("sign of (n − 1)/n", _KL, "return math.log(n) + (n - 1) / n", "less far than log n"),
    Mutant("distribution function", _LAW, "return np.asarray((below + equal) ** n)", "at most r"),
    Mutant(
        "worst of n",
        _LAW,
        "return np.asarray(((1 - below) ** n - (1 - below - equal) ** n) * probabilities / equal)",
        "worst of n",
    ),
    Mutant(
        "KL the other way",
        _DIVERGENCE,
        "return float(reference[written] @ np.log(reference[written] / policy[written]))",
        "other direction",
    ),
    Mutant("gain in the reward's unit", _GAIN, "return float(policy @ rewards - mean)", "standard deviation"),
    Mutant("gain by the variance", _GAIN, _GAIN.replace("np.sqrt", ""), "variance"),
    Mutant(
        "the policy's own spread",
        _GAIN,
        "return float((policy @ rewards - mean) / np.sqrt(policy @ (rewards - policy @ rewards) ** 2))",
        "unit shrinks",
    ),
    Mutant(
        "gold less proxy",
        _OVER,
        "return gain(policy, reference, gold) - gain(policy, reference, proxy)",
        "wrong sign",
    ),
    Mutant("not in units", _OVER, "return float((policy - reference) @ (proxy - gold))", "another unit"),
    Mutant("ranked by gold", _RANKED, "ranked = np.sort(gold)", "rank the texts by gold"),
    Mutant("least proxy", _RANKED, "ranked = gold[np.argsort(-proxy)]", "least proxy"),
    Mutant(
        "with replacement",
        _WEIGHTS,
        "return float(np.diff((np.arange(m + 1) / m) ** n) @ ranked)",
        "with replacement",
    ),
    Mutant(
        "factorials that overflow",
        _WEIGHTS,
        "return float(sum(np.prod(np.arange(i - n + 2.0, i + 1)) / np.prod(np.arange(m - n + 1.0, m + 1))"
        " * n * ranked[i] for i in range(m)))",
        "overflow",
    ),
    Mutant("KL for its root", _ROOT, "d = kl", "d = √KL"),
    Mutant("β's sign", _FITTED, "return float(alpha), float(-beta)", "β has the wrong sign"),
    Mutant("d for KL", _PEAK, "return d, d * (alpha - beta * d)", "KL is d²"),
    Mutant("zero for the peak", "d = alpha / (2 * beta)", "d = alpha / beta", "comes back to 0"),
    Mutant(
        "superlatives are free",
        _REWARD,
        _REWARD.replace(" - 0.1 * superlatives - 0.01 * len(words)", ""),
        "superlatives pay",
    ),
    Mutant("length pays", _REWARD, _REWARD.replace("- 0.01 *", "+ 0.01 *"), "length pays"),
    Mutant(
        "rewards are ranks of the batch",
        "return np.array(rewards)",
        "return np.argsort(np.argsort(rewards)).astype(np.float64)",
        "judged alone",
    ),
    Mutant("superlatives pay a lot", _REWARD, "rewards.append(said + superlatives)", "hacked", public=False),
]
