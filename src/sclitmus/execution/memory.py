"""How much memory this process has taken."""

import sys


def peak_rss_mb() -> float:
    """Largest resident memory so far of this process, or of one that it started and waited for."""
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    peak = max(
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
