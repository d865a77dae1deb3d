"""The label store: questions, answers, files of other formats."""
