"""timing: what the policy "measured" runs on this machine, and what it keeps of it."""
