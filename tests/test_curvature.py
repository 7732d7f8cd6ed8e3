"""Curvature on masks against plain NumPy and drawn random masks; the Fisher length of an update."""

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from rlvr.cli import main
from rlvr.config import ModelSection
from rlvr.curvature import Prompts, draw_prompts, load, measure_curvature, measure_length
from rlvr.geometry import curvature as cv
from rlvr.geometry import fisher_length as fl
from rlvr.geometry.fisher import Example, logit_change
from rlvr.geometry.settings import Settings
from rlvr.masks import builders
from rlvr.targets import resolve_targets

POLICY = Path(__file__).parent.parent / "recipes" / "pocket" / "policy"
DATA = {"name": "pocket", "split": "test", "size": 64}
SETTINGS = Settings(rank=4, density=0.5, low_density=0.4)
SHAPES = ((24, 16), (20, 30))


def weights_of(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"w{i}": torch.randn(s, generator=generator) for i, s in enumerate(SHAPES)}


def table_of(
    squares: list[list[Tensor]], weights: dict[str, Tensor]
) -> tuple[cv.Table, dict[str, np.ndarray]]:
    """Return the table of squared gradients (prompt by matrix, one token each), and the masks."""
    cells = {n: cv.cells_of(n, w, SETTINGS) for n, w in weights.items()}
    sums = np.stack(
        [[cv.sum_cells(s, cells[n]).numpy() for s, n in zip(own, cells, strict=True)]
         for own in squares]
    )  # fmt: skip
    diagonals = [sum(own) / len(squares) for own in zip(*squares, strict=True)]
    table = cv.Table(
        sums,
        np.stack([cv.sum_cells(torch.ones_like(weights[n]), cells[n]).numpy() for n in cells]),
        np.stack([cv.sum_cells(d.double() ** 2, cells[n]).numpy()
                  for d, n in zip(diagonals, cells, strict=True)]),
        np.stack([cv.shuffled_sums(n, d, cells[n]) for d, n in zip(diagonals, cells, strict=True)]),
        np.ones(len(squares)),
    )  # fmt: skip
    return table, {n: d.double().numpy() for n, d in zip(cells, diagonals, strict=True)}


def masks_of(name: str, weight: Tensor) -> dict[str, np.ndarray]:
    principal = builders.principal(weight, name, rank=4, density=0.5)
    low = builders.low_magnitude(weight, name, density=0.4)
    safe = builders.safe(weight, name, rank=4, principal_density=0.5, low_density=0.4)
    off = builders.off_principal(weight, name, rank=4, density=0.5)
    found = {"principal": principal, "off_principal": off, "low": low, "safe": safe}
    found["principal_not_low"] = principal & ~low
    return {mask: value.numpy() for mask, value in found.items()}


def random_squares(prompts: int, seed: int = 1) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.rand(s, generator=generator) ** 4 for s in SHAPES] for _ in range(prompts)]


def test_cells_are_the_builders_masks_and_equally_full_bins():
    for name, weight in weights_of().items():
        cells = cv.cells_of(name, weight, SETTINGS).numpy()
        for mask, expected in masks_of(name, weight).items():
            assert (np.isin(cells // cv.BINS, cv.MASKS[mask]) == expected).all(), mask
        sizes = np.bincount((cells % cv.BINS).ravel())
        assert len(sizes) == weight.numel() // 16 and sizes.max() - sizes.min() <= 1
        magnitude = weight.abs().numpy()
        tops = [magnitude[cells % cv.BINS == b].max() for b in range(len(sizes))]
        assert (np.diff(tops) > 0).all()


def test_means_and_ratios_are_those_of_plain_numpy():
    weights = weights_of()
    table, diagonals = table_of(random_squares(5), weights)
    for mask in cv.MASKS:
        held, expected, size = 0.0, 0.0, 0
        for index, (name, weight) in enumerate(weights.items()):
            own, d = masks_of(name, weight)[mask], diagonals[name]
            row = table.row(mask, [index])
            assert row["mean_curvature"] == pytest.approx(d[own].mean(), rel=1e-6)
            assert row["mean_curvature_all"] == pytest.approx(d.mean(), rel=1e-6)
            assert row["ratio"] == pytest.approx(d[own].mean() / d.mean(), rel=1e-6)
            assert row["density"] == own.mean()
            held, size = held + d[own].sum(), size + own.sum()
            expected += d.mean() * own.sum()
        row = table.row(mask, range(len(weights)))
        assert row["ratio"] == pytest.approx(held / expected, rel=1e-6)
        assert row["mean_curvature"] == pytest.approx(held / size, rel=1e-6)


def drawn_sums(d: np.ndarray, own: np.ndarray, strata: np.ndarray, draws: int) -> np.ndarray:
    """Return sums over random masks with as many entries as ``own`` in every stratum."""
    generator, found = np.random.default_rng(0), np.zeros(draws)
    for stratum in np.unique(strata):
        values, count = d[strata == stratum], int(own[strata == stratum].sum())
        found += [generator.permutation(values)[:count].sum() for _ in range(draws)]
    return found


@pytest.mark.parametrize(
    ("key", "z_key"), [("ratio", "z_random"), ("ratio_magnitude", "z_magnitude")]
)
def test_closed_forms_are_those_of_drawn_masks(key: str, z_key: str):
    weights = weights_of()
    table, diagonals = table_of(random_squares(2), weights)
    draws = 3000
    sums, found = np.zeros(draws), 0.0
    for name, weight in weights.items():
        own, d = masks_of(name, weight)["principal"], diagonals[name]
        bins = cv.cells_of(name, weight, SETTINGS).numpy() % cv.BINS
        sums += drawn_sums(d, own, bins if "magnitude" in key else np.zeros_like(bins), draws)
        found += d[own].sum()
    row = table.row("principal", range(len(weights)))
    error = sums.std() / draws**0.5
    assert found / row[key] == pytest.approx(sums.mean(), abs=5 * error)
    z = (found - sums.mean()) / sums.std()
    assert row[z_key] == pytest.approx(z, abs=5 * (1 + abs(z)) / draws**0.5)


def test_shuffled_curvature_has_a_mean_z_of_zero():
    """Entries in random places: z is standard normal, against entries, stripes and magnitudes."""
    weights = weights_of()
    fixed = random_squares(1)[0]
    generator = torch.Generator().manual_seed(3)
    found: dict[str, list[float]] = {"z_random": [], "z_shuffled": [], "z_magnitude": []}
    for _ in range(100):
        squares = [
            s.reshape(-1)[torch.randperm(s.numel(), generator=generator)].view(s.shape)
            for s in fixed
        ]
        row = table_of([squares], weights)[0].row("principal", range(2))
        for key, values in found.items():
            values.append(row[key])
    for values in found.values():
        assert abs(np.mean(values)) < 5 / 100**0.5
        assert 0.75 < np.std(values) < 1.3


def test_stripes_fool_entries_and_not_shuffled_rows_and_columns():
    """Curvature that differs by row alone, on a mask of the same rows' entries, by chance."""
    generator = torch.Generator().manual_seed(0)
    z_random, z_shuffled = [], []
    for seed in range(60):
        left = torch.randn(SHAPES[0][0], 1, generator=generator)
        weights = {"w0": left.abs() * torch.randn(SHAPES[0], generator=generator),
                   "w1": weights_of(seed)["w1"]}  # fmt: skip
        rows = torch.rand(SHAPES[0][0], 1, generator=generator) ** 3
        squares = [rows.expand(SHAPES[0]).clone(), torch.ones(SHAPES[1])]
        row = table_of([squares], weights)[0].row("low", [0])
        z_random.append(row["z_random"])
        z_shuffled.append(row["z_shuffled"])
    assert np.std(z_random) > 2
    assert np.std(z_shuffled) < 1.5


def test_curvature_that_follows_magnitude_is_explained_by_it():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 160, generator=generator)
    cells = {"w": cv.cells_of("w", weight, Settings(rank=80, density=0.5, low_density=0.4))}
    noise = torch.rand(weight.shape, generator=generator)
    steps = (cells["w"] % cv.BINS).float() * noise  # curvature grows with the magnitude
    table = cv.Table(
        np.stack([[cv.sum_cells(steps, cells["w"]).numpy()]] * 3),
        cv.sum_cells(torch.ones_like(weight), cells["w"]).numpy()[None],
        cv.sum_cells(steps.double() ** 2, cells["w"]).numpy()[None],
        cv.shuffled_sums("w", steps, cells["w"])[None],
        np.ones(3),
    )
    row = table.row("principal", [0])
    assert row["ratio"] > 1.02 and row["z_random"] > 5
    assert row["ratio_magnitude"] == pytest.approx(1, abs=0.01) and abs(row["z_magnitude"]) < 4
    low = table.row("low", [0])
    assert low["ratio"] < 0.6
    # All but one bin are inside or outside as a whole: there is next to nothing to compare with.
    assert low["ratio_magnitude"] == pytest.approx(1, abs=0.01)


def test_interval_is_over_prompts():
    weights = weights_of()
    equal = random_squares(1) * 8
    row = table_of(equal, weights)[0].row("principal", range(2))
    assert row["ratio_high"] - row["ratio_low"] < 1e-9
    squares = random_squares(12, seed=5)
    table, _ = table_of(squares, weights)
    row = table.row("principal", range(2))
    generator, ratios = np.random.default_rng(9), []
    for _ in range(400):
        drawn = generator.integers(12, size=12)
        held = expected = 0.0
        for index, (name, weight) in enumerate(weights.items()):
            own = masks_of(name, weight)["principal"]
            d = np.mean([squares[i][index].double().numpy() for i in drawn], axis=0)
            held, expected = held + d[own].sum(), expected + d.mean() * own.sum()
        ratios.append(held / expected)
    low, high = np.quantile(ratios, (0.025, 0.975))
    width = high - low
    assert row["ratio_low"] == pytest.approx(low, abs=0.2 * width)
    assert row["ratio_high"] == pytest.approx(high, abs=0.2 * width)


def test_zero_curvature_is_undefined_and_no_error():
    weights = weights_of()
    zeros = [[torch.zeros(s) for s in SHAPES]] * 2
    row = table_of(zeros, weights)[0].row("principal", range(2))
    assert row["ratio"] is None and row["z_random"] is None and row["z_shuffled"] is None
    assert row["mean_curvature"] == 0


def tiny_update() -> tuple[dict[str, Tensor], dict[str, Tensor], list[Example], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(4)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    weights = {"w0": normal(8, 6), "w1": normal(7, 8), "bias": normal(7)}
    inputs = [normal(length, 6) for length in (4, 9)]

    def forward(x: Tensor):
        return lambda w: torch.tanh(x @ w["w0"].T) @ w["w1"].T + w["bias"]

    examples = [Example(forward(x), torch.zeros(len(x), dtype=torch.long)) for x in inputs]
    update = {n: 0.01 * normal(*w.shape) for n, w in weights.items()}
    cells = {n: cv.cells_of(n, weights[n], SETTINGS) for n in ("w0", "w1")}
    return weights, update, examples, cells


def length_of(weights, update, examples, cells) -> dict:
    pieces, at_random = fl.pieces_of(update, cells), fl.random_pieces_of(update, cells)
    terms, cross = zip(
        *(fl.length_terms(e, weights, pieces, at_random) for e in examples), strict=True
    )
    tokens = np.array([float(len(e.tokens)) for e in examples])
    energies = np.array([sum(float(d.square().sum()) for d in p.values()) for p in pieces])
    stacked = (torch.stack(terms).numpy(), torch.stack(cross).numpy())
    return fl.summarise_length(*stacked, np.ones(len(tokens)), tokens, energies)


def test_shares_of_the_length_add_up_and_have_their_random_mean():
    weights, update, examples, cells = tiny_update()
    found = length_of(weights, update, examples, cells)
    shares = {mask: row["share"]["mean"] for mask, row in found["masks"].items()}
    outside = found["share_outside_targets"]
    assert shares["principal"] + shares["off_principal"] + outside == pytest.approx(1, abs=1e-12)
    assert shares["safe"] + shares["principal_not_low"] + outside == pytest.approx(1, abs=1e-12)
    generator, drawn = torch.Generator().manual_seed(0), []
    for _ in range(40):
        shuffled = {
            n: c.reshape(-1)[torch.randperm(c.numel(), generator=generator)].view(c.shape)
            for n, c in cells.items()
        }
        drawn.append(
            length_of(weights, update, examples, shuffled)["masks"]["safe"]["share"]["mean"]
        )
    expected = found["masks"]["safe"]["share_random"]
    assert np.mean(drawn) == pytest.approx(expected, abs=5 * np.std(drawn) / 40**0.5)


def test_an_update_on_one_mask_has_its_whole_length_there():
    weights, update, examples, cells = tiny_update()
    only = {n: d * ((cells[n] // cv.BINS) % 2 == 1) for n, d in update.items() if n in cells}
    found = length_of(weights, only, examples, cells)
    assert found["masks"]["principal"]["share"]["mean"] == pytest.approx(1, abs=1e-12)
    alone = found["masks"]["principal"]["alone_nats_per_token"]
    assert alone == pytest.approx(found["fisher_nats_per_token"]["mean"], rel=1e-12)
    assert found["masks"]["principal"]["share_of_energy"] == 1


@pytest.fixture(scope="module")
def pocket():
    section = ModelSection(str(POLICY))
    policy = load(section)
    drawn = draw_prompts(section, policy, DATA, prompts=2, samples=2, max_new_tokens=40, seed=0)
    return policy, drawn


def test_pocket_policy_against_a_plain_loop(pocket):
    """Gradients by transformers' own loss, masks in NumPy: the same means to 1e-4."""
    policy, prompts = pocket
    names = list(resolve_targets(policy, ["q_proj"]))
    found = measure_curvature(policy, prompts, names, SETTINGS, probes=0, steps=0, seed=0)
    plain = AutoModelForCausalLM.from_pretrained(POLICY, dtype=torch.float32)
    parameters = {n: p for n, p in plain.named_parameters() if "q_proj" in n}
    totals, count = {n: np.zeros(p.shape) for n, p in parameters.items()}, 0
    for head, group in zip(prompts.heads, prompts.completions, strict=True):
        for tokens in group:
            labels = [-100] * len(head) + tokens
            plain.zero_grad()
            loss = plain(torch.tensor([head + tokens]), labels=torch.tensor([labels])).loss
            (loss * len(tokens)).backward()
            for name, parameter in parameters.items():
                assert parameter.grad is not None
                totals[name] += parameter.grad.double().numpy() ** 2
            count += len(tokens)
    assert count == prompts.tokens.sum()
    assert len(found.rows) == len(parameters) * len(cv.MASKS)
    for row in found.rows:
        own = masks_of(row["name"], parameters[row["name"]].detach())[row["mask"]]
        expected = totals[row["name"]][own].mean() / count
        assert row["mean_curvature"] == pytest.approx(expected, rel=1e-4)
    assert found.summary["trace"] == pytest.approx(
        sum(t.sum() for t in totals.values()) / count, rel=1e-4
    )


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config, Qwen3Config])
def test_forward_mode_is_the_finite_difference(kind: type):
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tied = kind is not LlamaConfig
    config = kind(vocab_size=50, tie_word_embeddings=tied, attn_implementation="eager",
                  **sizes, **heads)  # fmt: skip
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config).double().eval().requires_grad_(False)
    (example,) = Prompts([[1, 2, 3]], [[[4, 5, 6, 7]]]).examples(policy)
    weights = dict(policy.named_parameters())
    vector = {n: 1e-2 * torch.randn_like(w) for n, w in weights.items()}
    logits, change = logit_change(example, weights, vector)
    whole = policy(torch.tensor([[1, 2, 3, 4, 5, 6, 7]])).logits[0, 2:6]
    assert example.tokens.tolist() == [4, 5, 6, 7]
    # The norms of these models compute in float32, also where the rest is float64.
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-5)
    sides = [example.logits({n: w + s * vector[n] for n, w in weights.items()})
             for s in (3e-3, -3e-3)]  # fmt: skip
    # A difference of two logits that float32 rounds by 6e-8, over 6e-3 of the change.
    error = (change - (sides[0] - sides[1]) / 6e-3).norm() / change.norm()
    assert error < 1e-4


def test_small_update_of_the_pocket_policy_has_its_kl_as_length(pocket):
    policy, prompts = pocket
    tuned = load(ModelSection(str(POLICY)), like=policy)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuned.parameters():
            size = 1e-3 * float(parameter.std())
            parameter += size * torch.randn(parameter.shape, generator=generator)
    cells = {n: cv.cells_of(n, p, SETTINGS) for n, p in policy.named_parameters() if "proj" in n}
    found = measure_length(policy, tuned, prompts, cells)
    assert found["fisher_over_kl"]["mean"] == pytest.approx(1, abs=0.02)
    assert 0 < found["share_outside_targets"] < 1
    same = measure_length(policy, policy, prompts, cells)
    assert same["parameters_moved"] == 0 and same["fisher_over_kl"]["mean"] is None
    assert same["kl_nats_per_token"]["mean"] == 0


def test_a_run_directory_is_all_that_the_command_needs(train: Callable[..., Path], capsys):
    run = train("learned", trainer={"max_steps": 1, "learning_rate": 1e-4})
    words = ["--prompts", "3", "--probes", "2", "--lanczos", "3", "--targets", "o_proj"]
    assert main(["curvature", str(run), *words]) == 0
    out = run / "curvature"
    with open(out / "curvature.csv") as file:
        rows = list(csv.DictReader(file))
    header = json.loads((out / "curvature.columns.json").read_text())
    assert list(header["columns"]) == list(rows[0])
    summary = json.loads((out / "curvature.json").read_text())
    assert len(rows) == summary["matrices"] * len(cv.MASKS)
    assert summary["prompts"] == 3 and len(summary["lanczos"]) == 3
    assert summary["length"]["fisher_nats_per_token"]["mean"] > 0
    assert {path.name for path in out.glob("*.png")} == {"curvature_masks.png", "fisher_length.png"}
    printed = capsys.readouterr().out
    assert "principal weights are" in printed and "Fisher length" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([str(POLICY)], "names no prompts"),
        (["a", "b", "c"], "BASE and TUNED"),
        ([str(POLICY), "--data", "pocket"], "names no prompts"),
        ([str(POLICY), "--data", "{name: pocket"], "not a YAML value"),
        ([str(POLICY), "--data", "{name: nothing}"], "unknown 'nothing'"),
        ([str(POLICY), "--data", "{name: pocket, split: test, size: 1}"], "one row"),
        (
            [str(POLICY), "--data", "{name: pocket, split: test}", "--prompts", "1"],
            "--prompts: 1 is below 2",
        ),
        ([str(POLICY), "--data", "{name: pocket, split: test}", "--rank", "0"], "--rank: 0"),
        ([str(POLICY), "--data", "{name: pocket, split: test}", "--density", "0"], "--density: 0"),
        (["/nowhere", "--data", "{name: pocket, split: test, size: 8}"], "does not exist"),
        (
            [
                str(POLICY),
                "--data",
                "{name: pocket, split: test, size: 8}",
                "--targets",
                "wrong",
                "--prompts",
                "2",
            ],
            "'wrong' matches no",
        ),
    ],
)
def test_a_mistake_is_one_message(words: list[str], message: str, capsys):
    assert main(["curvature", *words]) == 2
    assert message in capsys.readouterr().err


def save(policy, folder: Path) -> Path:
    policy.save_pretrained(folder)
    return folder


def test_a_broken_pair_is_one_message(tmp_path: Path, capsys):
    words = ["--data", "{name: pocket, split: test, size: 8}", "--prompts", "2", "--probes", "0"]
    policy = AutoModelForCausalLM.from_pretrained(POLICY)
    bare = save(policy, tmp_path / "bare")
    assert main(["curvature", str(bare), *words]) == 2
    assert "holds no tokenizer" in capsys.readouterr().err
    config = copy.deepcopy(policy.config)
    config.num_hidden_layers = 1
    config.layer_types = config.layer_types[:1]
    other = save(AutoModelForCausalLM.from_config(config), tmp_path / "shallow")
    assert main(["curvature", str(POLICY), str(other), *words, "--lanczos", "0"]) == 2
    assert "must be of one architecture" in capsys.readouterr().err
    with torch.no_grad():
        next(policy.parameters())[0, 0] = float("nan")
    broken = save(policy, tmp_path / "broken")
    assert main(["curvature", str(broken), *words]) == 2
    assert "are NaN or infinite" in capsys.readouterr().err
