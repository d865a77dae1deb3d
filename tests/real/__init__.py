"""A real chat model of 135M parameters, SmolLM2, and the tests that need one: `python -m tests.real`, then
`pytest -m real`."""
