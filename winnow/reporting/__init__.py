"""Who is told how a run goes, and by which numbers."""
