"""Tools that an agent can call in a conversation: a respondent that runs them, and a calculator."""
