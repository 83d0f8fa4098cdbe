"""The file contract of an external command, and each way it can be broken."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sclitmus.baselines.external import External
from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.core.rng import rng_for
from sclitmus.data.simulate import simulate
from sclitmus.errors import MethodError

QUICK = "import numpy as np, os; out = os.environ['SCLITMUS_OUTPUT']; "


def script(code: str, *words: str, **settings: object) -> External:
    return External([sys.executable, "-c", textwrap.dedent(code), *words], **settings)  # type: ignore[arg-type]


def embed(method: External, cells: Dataset | None = None) -> np.ndarray:
    cells = simulate(n_cells=12, n_genes=6) if cells is None else cells
    return method.fit(cells, rng_for(0, "a")).embed(cells)


def test_it_gets_the_counts_and_no_labels() -> None:
    cells = simulate(n_cells=12, n_genes=6)
    genes = Genes(("A", "A", "", "", "E", "F"), ("", "", "ENSG1", "", "", ""), "human")
    batch = Categories.of(["x"] * 11 + [None])
    cells = replace(cells, genes=genes, roles={"label": cells.role("label"), "batch": batch})
    code = """
        import sys, anndata, numpy as np
        data = anndata.read_h5ad(sys.argv[1])
        assert data.X.format == "csr"
        assert list(data.obs.columns) == ["batch"], data.obs.columns
        assert data.obs["batch"].isna().sum() == 1
        assert list(data.var["gene_symbol"]) == ["A", "A", "", "", "E", "F"]
        assert list(data.var_names) == ["A", "A-1", "ENSG1", "gene_3", "E", "F"]
        assert data.uns["organism"] == "human"
        assert data.obs_names[3] == "cell-3"
        np.save(sys.argv[2], data.X.toarray())
    """
    z = embed(script(code, "{input}", "{output}"), cells)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(z, cells.counts.toarray())


def test_paths_are_in_the_environment_and_integers_are_numbers() -> None:
    code = (
        "assert os.path.exists(os.environ['SCLITMUS_INPUT']); np.save(out, np.ones((12, 3), int))"
    )
    z = embed(script(QUICK + code))
    assert z.dtype == np.float32
    assert z.shape == (12, 3)


def test_the_seed_comes_from_the_stream_and_makes_the_method_random() -> None:
    code = "import sys, numpy as np; np.save(sys.argv[1], np.full((12, 1), float(sys.argv[2])))"
    seeded = script(code, "{output}", "{seed}")
    assert not seeded.card.deterministic
    assert script(QUICK).card.deterministic
    cells = simulate(n_cells=12, n_genes=6)
    seeds = [seeded.fit(cells, rng_for(s, "a")).embed(cells)[0, 0] for s in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_words_are_split_as_a_shell_does_but_no_shell_runs() -> None:
    method = External("python 'my script.py' $HOME; rm {output}")
    assert method.words == ("python", "my script.py", "$HOME;", "rm", "{output}")


def test_fingerprint_tells_commands_and_versions_apart() -> None:
    prints = {
        External("a b", version=v).card.fingerprint if c else External("a c").card.fingerprint
        for v, c in (("", True), ("2", True), ("", False))
    }
    assert len(prints) == 3
    assert External("a b").card.fingerprint == External(["a", "b"], timeout=3.0).card.fingerprint


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('x' * 99999); sys.exit('no such gene: FOO')", "no such gene: FOO"),
        ("print('only this'); raise SystemExit(3)", "exit code 3; it last said:\n  | only this"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "exit code -9"),
        ("pass", "wrote no embedding.npy"),
        (QUICK + "open(out, 'w').write('hello')", "cannot be read"),
        (QUICK + "open(out, 'w')", "cannot be read"),
        (QUICK + "np.save(out, np.array([[None]] * 12), allow_pickle=True)", "cannot be read"),
        (QUICK + "np.save(out, np.full((12, 2), 'a'))", "holds <U1"),
        (QUICK + "np.savez(open(out, 'wb'), z=np.ones((12, 2)))", "holds NpzFile"),
        (QUICK + "np.save(out, np.ones((11, 2)))", "shape (11, 2)"),
        (QUICK + "np.save(out, np.ones(12))", "shape (12,)"),
        (QUICK + "np.save(out, np.ones((12, 0)))", "shape (12, 0)"),
        (QUICK + "z = np.ones((12, 2)); z[3:5, 1] = np.nan; np.save(out, z)", "2 of 12 rows"),
        (QUICK + "np.save(out, np.full((12, 2), 1e300))", "12 of 12 rows"),
    ],
)
def test_each_failure_says_what_was_seen(code: str, said: str) -> None:
    with pytest.raises(MethodError) as caught:
        embed(script(code, id="mine"))
    assert said in caught.value.seen
    assert caught.value.seen.startswith("mine: ")
    assert caught.value.needed
    assert caught.value.remedy


@pytest.mark.parametrize("command", ["no-such-program-here {input}", "", [], "/"])
def test_a_program_that_cannot_be_started(command: str | list[str]) -> None:
    with pytest.raises(MethodError, match="cannot be started"):
        embed(External(command))


def test_a_timeout_ends_all_that_was_started(tmp_path: Path) -> None:
    code = """
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(sys.argv[1], "w").write(str(child.pid))
        print("working", file=sys.stderr, flush=True)
        time.sleep(600)
    """
    noted = tmp_path / "pid"
    with pytest.raises(MethodError, match=r"still running after 2 s(?s:.*)\| working"):
        embed(script(code, str(noted), timeout=2.0))
    assert ended(int(noted.read_text()))


def test_nothing_outlives_a_command_that_succeeds(tmp_path: Path) -> None:
    code = """
        import os, subprocess, sys, numpy as np
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(sys.argv[1], "w").write(str(child.pid))
        np.save(os.environ["SCLITMUS_OUTPUT"], np.ones((12, 2)))
    """
    noted = tmp_path / "pid"
    assert embed(script(code, str(noted))).shape == (12, 2)
    assert ended(int(noted.read_text()))


def ended(pid: int) -> bool:
    """Whether a process is gone within five seconds; a zombie nobody reaps is gone."""
    for _ in range(50):
        status = Path(f"/proc/{pid}/stat")
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(pid, 0)
            if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            time.sleep(0.1)
            continue
        return True
    os.kill(pid, signal.SIGKILL)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_command_does_not_outlive_a_killed_worker(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    program = f"import os, time; open('{mark}', 'w').write(str(os.getpid())); time.sleep(60)"
    command = f'{sys.executable} -c "{program}"'
    code = textwrap.dedent(
        f"""
        import numpy as np
        from sclitmus.baselines.external import External
        from sclitmus.data.simulate import simulate
        data = simulate(n_cells=20, n_genes=10)
        External({command!r}).fit(data, np.random.default_rng(0)).embed(data)
        """
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    give_up = time.monotonic() + 60
    while not (mark.exists() and mark.read_text()):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    worker.kill()
    worker.wait()
    assert ended(int(mark.read_text()))
