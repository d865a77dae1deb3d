"""What a submission may not import: the answers. For honest people; a sandbox stands behind it.

It reads the source and runs nothing, so an import that hides behind `exec` is not seen. Whoever hides one
knows what they are doing, and written answers tell that.
"""

from __future__ import annotations

import ast

ANSWERS = ("text_gym", "course")  # they hold the solutions, the hidden tests and gold


def import_of_answers(source: str | bytes, file: str = "lab.py") -> str:
    r"""Say which import of a submission leads to the answers; empty if none does.

    Args:
        source: Python. What cannot be parsed imports nothing; running it will say why.
        file: Its name, for the message.

    >>> import_of_answers("import numpy\nfrom text_gym.agents import PPO\n").partition(":")[0]
    'line 2 of lab.py imports text_gym.agents'
    >>> import_of_answers("import torch")
    ''
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    for node in ast.walk(tree):
        for name in _imported(node):
            if name.partition(".")[0] in ANSWERS:
                line = getattr(node, "lineno", 0)
                return (
                    f"line {line} of {file} imports {name}: it holds the answers, which are yours to "
                    "write; Python's standard library, NumPy and PyTorch may be imported"
                )
    return ""


def _imported(node: ast.AST) -> list[str]:
    """The modules that a node imports: by a statement, or by name with `import_module` or `__import__`."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if not node.level else []
    if isinstance(node, ast.Call) and node.args:
        function = getattr(node.func, "attr", getattr(node.func, "id", ""))
        name = node.args[0]
        if function in ("import_module", "__import__") and isinstance(name, ast.Constant):
            return [str(name.value)]
    return []
