"""`text-gym validate` judges a task, a reward or an installed package before anybody optimises it."""

from __future__ import annotations

import dataclasses

from rich.text import Text

from text_gym.cli.options.validate import ValidateOptions
from text_gym.utils.display import harmless
from text_gym.utils.terminal import SafeConsole
from text_gym.validation.page import write_validation
from text_gym.validation.result import CheckResult, worst
from text_gym.validation.targets import ValidationRequest, validate_target


def run_validate(options: ValidateOptions) -> int:
    """Run `text-gym validate`; the exit status is 0, or 10 more than the lowest level that failed."""
    console = SafeConsole()

    def tell(result: CheckResult) -> None:
        console.print(Text(harmless(result.line(), limit=400)))

    given = dataclasses.asdict(options)
    own = {k: given.pop(k) for k in ("levels", "prompts", "seconds", "seed")}
    trust, out = given.pop("trust"), given.pop("out")
    reports = validate_target(ValidationRequest(**given, options=own), trust=trust, progress=tell)
    page = write_validation(reports, out)
    for report in reports:
        console.print(Text(harmless(f"{report.target}: {report.headline()}")))
    console.print(Text(harmless(str(page))))
    return worst(reports)
