"""How far a run is, and how long the rest will take by what was measured so far."""

from sclitmus.execution.events import Progress
from sclitmus.execution.plan import Plan, Trial


class Clock:
    """Counts finished trials against the plan's estimates. It changes; one run owns it."""

    def __init__(self, plan: Plan, jobs: int) -> None:
        self.jobs = jobs
        self.left = {trial: trial.est_seconds for trial in plan.trials if trial.status == "run"}
        self.total = len(self.left)
        self.running = 0
        self.estimated = 0.0  # of what has finished
        self.measured = 0.0  # the same

    def start(self) -> Progress:
        """Note that a process was started."""
        self.running += 1
        return self.now()

    def finish(self, trials: tuple[Trial, ...], seconds: float) -> Progress:
        """Note that a process ended which took care of these trials."""
        self.running -= 1
        self.measured += seconds
        self.estimated += sum(self.left.pop(trial, 0.0) for trial in trials)
        return self.now()

    def now(self) -> Progress:
        """Say how far the run is."""
        eta = None
        if self.estimated > 0:
            pace = self.measured / self.estimated
            eta = sum(self.left.values()) * pace / self.jobs
        return Progress(self.total - len(self.left), self.total, self.running, eta)
