"""What ends a run, or leaves a candidate out, with a sentence for people."""


class BenchError(RuntimeError):
    """Says in one sentence what is wrong and what to do."""
