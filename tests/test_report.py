"""Run records: read back, as tables, as figures."""

import builtins
import copy
import json

import pytest

from keras_dp_retrieval import report


def epoch(number, **changes):
    record = {
        "epoch": number,
        "examples": 1000,
        "steps": 10,
        "num_devices": 2,
        "examples_per_second": 500.0,
        "examples_per_second_per_device": 250.0,
        "scaling_efficiency": None,
        "step_seconds_median": 0.2,
        "step_seconds_p95": 0.25,
        "training_seconds": 2.0,
        "compile_seconds": 0.0,
        "compiled_steps": [],
        "input_wait_seconds": 0.5,
        "validation_seconds": 0.75,
        "validation_compile_seconds": 0.25,
        "callbacks_seconds": 0.125,
        "seconds": 2.875,
        "devices": [device("cpu:0"), device("cpu:1", lag=0.03)],
        "processes": [process(0)],
        "slowest_device": None,
        "slowest_process": None,
        "missing_processes": [],
        "unknown": {},
    }
    return {**record, **changes}


def device(name, lag=0.0, rate=250.0, process=0):
    return {
        "name": name,
        "process": process,
        "examples": 500,
        "examples_per_second": rate,
        "finish_lag_seconds": lag,
        "memory_bytes": 3_000_000,
    }


def process(index):
    return {
        "process": index,
        "examples": 500,
        "training_seconds": 2.0,
        "compile_seconds": 0.0,
        "input_wait_seconds": 0.5,
        "outside_step_seconds": 0.75,
        "step_seconds_median": 0.2,
        "step_seconds_p95": 0.25,
    }


def run_of(*epochs, stalls=()):
    about = {"first_epoch": 0, "processes": 1, "model": "movies"}
    return {"run": about, "epochs": list(epochs), "stalls": list(stalls)}


def write(path, *lines):
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path


def begin(first_epoch):
    return {"kind": "run", "first_epoch": first_epoch}


def ended(number, **changes):
    return {"kind": "epoch", **epoch(number, **changes)}


def test_later_callbacks_time_is_added_to_its_epoch(tmp_path):
    closed = {"kind": "epoch_closed", "epoch": 0}
    closed |= {"callbacks_seconds": 4.0, "seconds": 6.75}
    path = write(tmp_path / "run.jsonl", begin(0), ended(0), closed, ended(1))
    for given in (path, tmp_path, str(tmp_path)):
        first, second = report.read_run(given)["epochs"]
        assert (first["callbacks_seconds"], first["seconds"]) == (4.0, 6.75)
        assert second["callbacks_seconds"] == 0.125


def test_a_continued_run_continues_and_a_new_one_replaces(tmp_path):
    lines = [begin(0), ended(0), ended(1), ended(2)]
    lines += [begin(2), ended(2, steps=99), ended(3)]
    path = write(tmp_path / "run.jsonl", *lines)
    epochs = report.read_run(path)["epochs"]
    assert [(r["epoch"], r["steps"]) for r in epochs] == [
        (0, 10), (1, 10), (2, 99), (3, 10),
    ]  # fmt: skip
    write(path, *lines, begin(0), ended(0, steps=7))
    assert [r["steps"] for r in report.read_run(path)["epochs"]] == [7]


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    path = write(tmp_path / "run.jsonl", begin(0), ended(0))
    with path.open("a") as file:
        file.write('{"kind": "epoch", "epo')
    assert len(report.read_run(path)["epochs"]) == 1
    # Nor does it spoil what the continued run writes after it.
    report.append_line(str(tmp_path), ended(1))
    assert [r["epoch"] for r in report.read_run(path)["epochs"]] == [0, 1]


@pytest.mark.parametrize("line", ["not json", "[1]", '{"kind": "poem"}', "{}"])
def test_a_file_that_is_no_record_names_the_line(tmp_path, line):
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps(begin(0)) + "\n" + line + "\n{}\n")
    with pytest.raises(ValueError, match="no run record: line 2"):
        report.read_run(path)


def test_no_file_says_who_writes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"DistributionAwareCallback"):
        report.read_run(tmp_path)


def cells(text, first):
    """The cells of the table row that starts with `first`."""
    (line,) = [x for x in text.splitlines() if x.split()[:1] == [first]]
    return line.split()


def test_the_table_says_where_the_seconds_went():
    text = report.table(run_of(epoch(7, compile_seconds=0.5)))
    rows = [x.split() for x in text.splitlines() if x.split()[:1] == ["7"]]
    assert rows[0] == ["7", "1000", "10", "500", "250", "200", "250"]
    # Computing is what is left of training; validation's compiler is counted
    # with the compiler. The parts add up to the total.
    assert rows[1] == "7 2.875 1.000 0.750 0.500 0.500 0.125".split()
    parts = [float(cell) for cell in rows[1]]
    assert sum(parts[2:]) == pytest.approx(parts[1])
    assert cells(text, "cpu:1") == "cpu:1 0 500 250 30.00 3".split()


def test_the_first_epochs_compilation_does_not_blur_the_typical_figures():
    slow = epoch(0, compile_seconds=9.0, devices=[device("cpu:0", rate=1.0)])
    fast = [epoch(n, devices=[device("cpu:0", rate=80.0)]) for n in (1, 2)]
    text = report.table(run_of(slow, *fast))
    assert "median over the epochs that did not compile" in text
    assert cells(text, "cpu:0")[3] == "80"


def test_unknown_figures_are_dashes_with_the_reason_said_once():
    blind = epoch(
        0,
        compile_seconds=None,
        input_wait_seconds=None,
        step_seconds_median=None,
        step_seconds_p95=None,
        devices=[],
        unknown={"compile_seconds": "cannot look", "memory": "cannot look"},
    )
    text = report.table(run_of(blind))
    assert text.count("cannot look") == 1
    assert "Unknown: compile_seconds, memory (cannot look)." in text
    assert " - " in text


def test_whatever_went_wrong_is_said_below_the_table():
    record = epoch(
        3,
        slowest_device="cpu:1",
        compiled_steps=[0, 4],
        missing_processes=[2],
        processes=[process(0), process(1)],
        slowest_process=1,
    )
    stall = {"process": 2, "where": "fetching its batch, step 4"}
    stall |= {"seconds": 61.2, "seen_by": 0}
    text = report.table(run_of(record, stalls=[stall]))
    assert "Device cpu:1 is the slowest, in 1 of 1 epoch." in text
    assert "Process 1 is the slowest, in 1 of 1 epoch." in text
    assert "compiled again in epoch 3 step 4." in text
    assert "Processes [2] did not report epoch 3." in text
    assert "Process 2 stalled fetching its batch, step 4, for 61 s" in text


def test_an_empty_run_is_said_to_be_empty():
    assert report.table(run_of()) == "No epoch has ended yet."
    with pytest.raises(ValueError, match="nothing to draw"):
        report.draw([run_of()])


def test_a_long_run_shows_its_beginning_and_its_end():
    text = report.table(run_of(*map(epoch, range(1000))))
    assert len(text.splitlines()) < 160
    assert "..." in text
    assert cells(text.split("Seconds")[0], "999")[0] == "999"


def test_two_runs_side_by_side_with_their_ratio(tmp_path):
    faster = {"examples_per_second": 750.0, "step_seconds_median": 0.1}
    for name, changes in (("a", {}), ("b", faster)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "run.jsonl", begin(0), ended(0, **changes))
    text = report.report([tmp_path / "a", tmp_path / "b"])
    last = text.split("\n\n\n")[-1]
    rates = ["examples/s", "500", "750", "1.50"]
    assert rates in [line.split() for line in last.splitlines()]
    (step,) = [x for x in last.splitlines() if x.startswith("step, median")]
    assert step.split()[-3:] == ["200", "100", "0.50"]
    with pytest.raises(ValueError, match="Received: 3 paths"):
        report.report([tmp_path] * 3)


def test_baseline_is_the_typical_rate_of_one_device(tmp_path):
    one = {"num_devices": 1}
    rates = [(9.0, 3.0), (0.0, 100.0), (0.0, 110.0), (0.0, 300.0)]
    lines = [
        ended(n, **one, compile_seconds=c, examples_per_second_per_device=rate)
        for n, (c, rate) in enumerate(rates)
    ]
    path = write(tmp_path / "run.jsonl", begin(0), *lines)
    assert report.baseline_rate(path) == 110.0
    path = write(tmp_path / "run.jsonl", begin(0), ended(0))
    with pytest.raises(ValueError, match=r"recorded on \[2\] devices"):
        report.baseline_rate(path)


def shown(figure, row, column=0):
    axes = figure.axes
    return axes[row * (len(axes) // 3) + column]


def test_the_figure_draws_what_the_record_says(tmp_path):
    pytest.importorskip("matplotlib")
    devices = [device("cpu:0", rate=100.0), device("cpu:1", 0.03, rate=400.0)]
    run = run_of(*[epoch(n, devices=devices) for n in range(3)])
    figure = report.draw([run], tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"
    lines = {
        line.get_label(): list(line.get_ydata())
        for line in shown(figure, 0).lines
    }
    assert lines == {"cpu:0": [100.0] * 3, "cpu:1": [400.0] * 3}
    tops = [
        bar.get_y() + bar.get_height()
        for bar in shown(figure, 1).containers[-1]
    ]
    assert tops == pytest.approx([2.875] * 3)
    lags = [bar.get_height() for bar in shown(figure, 2).patches]
    assert lags == pytest.approx([0.0, 30.0])


def test_lines_that_coincide_are_drawn_as_one():
    pytest.importorskip("matplotlib")
    figure = report.draw([run_of(epoch(0), epoch(1))])
    (line,) = shown(figure, 0).lines
    assert line.get_label() == "each of 2 devices"


def test_many_devices_become_a_median_and_a_band():
    pytest.importorskip("matplotlib")
    devices = [device(f"tpu:{i}", rate=100.0 + 50 * i) for i in range(64)]
    figure = report.draw([run_of(epoch(0, devices=devices))])
    (line,) = shown(figure, 0).lines
    assert line.get_label() == "median of 64 devices"


def test_an_epoch_of_compilation_does_not_hide_the_others():
    pytest.importorskip("matplotlib")
    first = epoch(0, compile_seconds=40.0, training_seconds=42.0, seconds=42.9)
    figure = report.draw([run_of(first, *map(epoch, range(1, 5)))])
    axis = shown(figure, 1)
    assert axis.get_ylim()[1] < 3 * 2.875
    assert "42.9 s" in axis.texts[0].get_text()


def test_two_runs_share_their_scales():
    pytest.importorskip("matplotlib")
    run = run_of(epoch(0), epoch(1))
    other = copy.deepcopy(run)
    other["epochs"][0]["devices"] = []  # As on another backend.
    figure = report.draw([run, other], names=["left", "right"])
    assert len(figure.axes) == 6
    for row in range(3):
        left, right = shown(figure, row, 0), shown(figure, row, 1)
        assert left.get_ylim() == right.get_ylim()


def test_without_matplotlib_the_error_names_the_command(monkeypatch):
    real = builtins.__import__

    def none_of_it(name, *args, **kwargs):
        if name.split(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", none_of_it)
    with pytest.raises(ImportError, match=r"'keras-dp-retrieval\[plots\]'"):
        report.draw([run_of(epoch(0))])
