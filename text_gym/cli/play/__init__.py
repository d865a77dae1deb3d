"""`text-gym play`: a person plays one side, the policy or the user whom it talks to."""
