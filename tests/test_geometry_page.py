"""The page of a comparison: what a stranger, a keyboard and a screen reader find on it."""

import re

import torch
from foreign_folders import Q, save

from rlvr.cli import main


def test_a_report_says_what_it_is_and_how_to_repeat_it_and_a_gallery_links_it(tmp_path):
    base = {Q: 0.03 * torch.randn(48, 48, generator=torch.Generator().manual_seed(0))}
    for name, weights in (("base", base), ("tuned", {Q: base[Q] + 2e-4})):
        (tmp_path / name).mkdir()
        save(tmp_path / name, {n: w.bfloat16() for n, w in weights.items()})
    folders = [str(tmp_path / name) for name in ("base", "tuned")]
    out = tmp_path / "out"
    assert main(["geometry", *folders, "--out", str(out), "--rank", "4", "--fast"]) == 0
    page = (out / "report.html").read_text()
    assert f"rlvr geometry {' '.join(folders)} --rank 4 --fast" in page
    assert "Principal weights are" in page and "bfloat16 grid" in page
    for link in re.findall(r'href="([^"]+)"', page):
        assert (out / link).is_file(), link
    # Titles of tables are buttons, and no figure is described by its question only.
    assert page.count('<th scope="col"><button type="button">') > 10
    for words in re.findall(r'<img alt="([^"]*)"', page):
        assert re.search(r"\d", words), words
    assert main(["geometry", "--gallery", str(out), "--out", str(tmp_path / "all")]) == 0
    gallery = (tmp_path / "all" / "gallery.html").read_text()
    assert 'href="../out/report.html"' in gallery and "Principal weights are" in gallery
