"""Many runs in one report."""
