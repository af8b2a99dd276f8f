"""What every page must hold to: current, portable, captioned, referred to, and without a network."""

import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

import pdelens
from companion import chapters, poster, records, sphinx_api
from companion.claims.register import register

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "book/chapters").glob("*.md"))
NOTEBOOKS = sorted((ROOT / "book/notebooks").glob("*.ipynb"))
HTML = ROOT / "_build/html"
by_stem = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_portable(path):
    text = path.read_text()
    notebook = json.loads(text)
    assert "injected-parameters" not in text and "papermill" not in notebook["metadata"]
    assert not re.search(r'"/(home|root|tmp|work|Users)/', text)
    for cell in notebook["cells"]:
        assert not [o for o in cell.get("outputs", []) if o.get("name") == "stderr"]
        kinds = [o["output_type"] for o in cell.get("outputs", [])]
        assert not {"error", "execute_result"} & set(kinds), "a cell's last value is not a reader's matter: name it _"
    assert (ROOT / "book/chapters" / f"{path.stem}.md").exists()


def test_the_readme_of_data_says_where_each_file_is_from():
    said = (ROOT / "data" / "README.md").read_text()
    known = subprocess.run(["git", "-C", str(ROOT), "ls-files", "data"], capture_output=True, text=True).stdout.split()
    names = {Path(name).parts[1] for name in known} - {"README.md", "SHA256SUMS"}
    assert names and not [name for name in names if f"`{name}" not in said]


def test_budgets():
    def megabytes(folder):
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6

    assert megabytes(ROOT / "data") <= 16 and megabytes(ROOT / "book/notebooks") <= 20


@by_stem
def test_figures_and_tables_are_captioned_and_referred_to(path):
    text = path.read_text()
    notebook = chapters.read_source(path)
    names = []
    for cell in notebook.cells:
        about = cell.metadata.get("mystnb", {})
        if ".panels(" in cell.source:
            figure = about["figure"]
            assert len(figure["caption"]) > 60 and len(about["image"]["alt"]) > 30, figure["name"]
            names.append(figure["name"])
        if "tables.table(" in cell.source:
            assert about["markdown_format"] == "myst"
            names += re.findall(r"tables\.table\(\s*\"([\w-]+)\"", cell.source)
    assert names and len(set(names)) == len(names)
    for name in names:
        assert f"{{numref}}`{name}`" in text, f"{name} is never referred to"


@by_stem
def test_statements_carry_their_status(path):
    titles = re.findall(r"```\{prf:(?:theorem|proposition|lemma|corollary)\} (.*)", path.read_text())
    for title in titles:
        assert re.search(r"; (proved here|cited|conjectured)", title), title


@by_stem
def test_chapter_opens_and_closes_as_every_chapter(path):
    code = [cell for cell in chapters.read_source(path).cells if cell.cell_type == "code"]
    assert "parameters" in code[0].metadata["tags"]
    assert code[0].source.split()[:9] == 'device = "auto" seed = 0 scale = "book"'.split()
    assert code[-1].source == "companion.finish_chapter()" and "nbval-ignore-output" in code[-1].metadata["tags"]
    for cell in code:
        assert not re.search(r"[\"'](\.\.|/|data/|book/)", cell.source), "a chapter holds no paths"


def test_prose_quotes_only_recorded_numbers():
    known = records.all_records()
    for page in [*SOURCES, *(ROOT / "book").glob("*.md")]:
        for target in re.findall(r"\{glue:text\}`(?:[^`]*::)?([^`]+?):[^`:]*`", page.read_text()):
            key = re.sub(r"\.(low|high)$", "", target)
            assert key in known or target in known, f"{page.name} quotes {target}, which is not recorded"


def test_readme_says_what_was_recorded():
    known = records.all_records()
    readme = " ".join((ROOT / "README.md").read_text().split())
    said = []
    for key, text in {
        "untrained.text.uniform": "cosine of {:.3f} with the",
        "trained.text.uniform": "constant map scores {:.2f},",
        "trained.text.mean-map": "never looks at the input {:.2f}.",
        "attn.image.full-k1-one-step.one-step.cosine": "attention agrees to {:.2f} (images)",
        "attn.text.full-k1-one-step.one-step.cosine": "and {:.2f} (texts) at one step",
        "attn.image.full-k1-one-step.converged.cosine": "and to {:.2f} and",
        "attn.text.full-k1-one-step.converged.cosine": "and {:.2f} as a converged solution",
        "laws.image.k1.cosine": "one law agrees to {:.2f} and",
        "laws.text.k1.cosine": "and {:.2f}, three laws",
        "laws.image.k3.cosine": "three laws to {:.2f} and",
        "laws.text.k3.cosine": "and {:.2f}; the last doubling",
        "laws.language.k3.longest": "half a Transformer's parameters, are at {:.3f};",
        "laws.language.k1.cosine": "one law stops at {:.2f}.",
        "depth.refine.trained.converged": "attention keeps a cosine of {:.2f} with the model",
        "depth.refine.null.trained.mean-map": "which sees no input, has {:.2f}.",
        "fails.split.image.rest": "it misses {:.2f} (images)",
        "fails.split.text.rest": "and {:.2f} (texts) of what no affine map",
        "fails.split.image.k3.rest": "modes in depth-time {:.2f} and",
        "fails.split.text.k3.rest": "and {:.2f}. - **The teachers",
        "atlas.minilm.remainder.generator": "is missed by {:.2f},",
        "atlas.smollm2.remainder.generator": ", {:.2f} and",
        "atlas.dinov2.remainder.generator": "and {:.2f} of what it does to real",
        "atlas.minilm.remainder.matched": "moments misses {:.2f},",
        "atlas.smollm2.remainder.matched": ", {:.2f} and",
        "atlas.dinov2.remainder.matched": "and {:.2f}. And beside",
        "info.table.ksg.pair": "estimate shows {:.2f} of",
        "info.task.pair": "of {:.2f} nats; two bounds",
        "info.bounds.missing": "are both {:.0f} nats wrong in 64.",
        "gradients.image.input.three-laws.cosine": "gradients have a cosine of {:.2f} (images)",
        "gradients.text.input.three-laws.cosine": "and {:.2f} (texts) with the Transformer's",
        "gradients.image.input.mean-of-its-class.cosine": "where the best null has {:.2f} and",
        "gradients.text.input.mean-of-its-class.cosine": "and {:.2f}; examples that",
        "perturbations.image.rank.natural.three-laws": "rank correlation {:.2f} and",
        "perturbations.text.rank.natural.three-laws": "and {:.2f}. What tokens know",
        "tokens.c9.language": "it is nearer, by {:.3f} nats.",
        "stabilisers.mapped": "Over {:.0f} networks,",
        "stabilisers.lead.image.24": "leads the best with one by {:.2f} nats",
        "stabilisers.c7.necessary.image": "a connection loses {:.2f} to the best of all",
        "stabilisers.help.c8.image.6.octaves": "learning rate: {:.0f} octaves of it",
    }.items():
        said.append(text.format(known[key]["value"]))
        assert said[-1] in readme, key
    for key, text in {
        "teachers.image-patch4.accuracy": "name {:.1%} of test pictures correctly",
        "teachers.plain.image-neighbours": "(five nearest neighbours {:.1%},",
        "teachers.plain.image-dense": "a perceptron of equal size {:.1%});",
        "teachers.text-classifier.accuracy": "text classifiers {:.1%} of windows",
        "teachers.plain.text-48-tfidf-1": "a bag of words has {:.1%}.",
    }.items():
        said.append(text.format(known[key]["value"]).replace("%", " %"))
        assert said[-1] in readme, key
    covered = [100 * known[f"info.{kind}.coverage"]["value"] for kind in ("auto", "held.auto")]
    said.append(
        "truth in {:.0f} % of its intervals over the tasks that it was built with, and in {:.0f} % over".format(
            *covered
        )
    )
    said.append(f"is {-known['stabilisers.neither.image.24']['value']:.2f} ahead of the standard network")
    gained = known["laws.image.k3.cosine.gained"]["value"]
    said.append(f"still gained {100 * gained:.0f} % of what three laws miss on images")
    verdict = register()[0].reading_verdicts(known)["converged"]
    said.append(f"so the claim is *{verdict.value}*")
    for text in said:
        assert text in readme
        readme = readme.replace(text, re.sub(r"\d", "#", text), 1)
    # What is left is no result: the paper's number and claim, versions of Python, and how large a download is.
    left = set(re.findall(r"(?<![\w.])\d*\.\d+(?![\w.])|\d+(?= ?%)", re.sub(r"`[^`]*`", "", readme)))
    assert left <= {"2408.09523", "0.98", "3.11", "3.13", "0.2"}, left


def test_the_poster_is_the_pages_own_figure():
    assert (ROOT / poster.FILE).read_bytes() == poster.of_notebook()
    for page in ("README.md", "book/index.md"):
        assert poster.FILE.split("/")[-1] in (ROOT / page).read_text(), page


def test_the_api_page_has_every_public_name_once():
    listed = re.findall(
        r"^(\w+)$", "\n".join(re.findall(r"```\{api\}\n(.*?)```", (ROOT / "book/api.md").read_text(), re.DOTALL)), re.M
    )
    assert sorted(listed) == sorted(pdelens.__all__)
    for name in pdelens.__all__:
        text = sphinx_api.entry(name, getattr(pdelens, name))
        assert f"pdelens.{name}" in text and "```python\n>>>" in text, name
    assert "Float[Tensor" in sphinx_api.entry("laplacian", pdelens.laplacian), "shapes are shown"


@pytest.mark.parametrize("page", ["README.md", "book/index.md"])
def test_what_the_pages_show_of_the_library_runs(page):
    """Every line of Python on the page, on a small Transformer."""
    from pdelens.models import Configuration, Transformer

    text = (ROOT / page).read_text()
    model = Transformer(Configuration(vocabulary=50, length=16, layers=2, outputs=2))
    tokens = torch.randint(1, 50, (8, 16), generator=torch.Generator().manual_seed(0))
    reference, calibration = (pdelens.flow_of(model, {"inputs": tokens[part]}) for part in (slice(4), slice(4, 8)))
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    known = {"model": model, "inputs": {"inputs": tokens[:4]}, "reference": reference, "calibration": calibration}
    known |= {"x": x, "y": x + torch.randn(200, 2, generator=torch.Generator().manual_seed(2))}
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block.replace("Chain(4096)", "Chain(16)"), page, "exec"), known)
    assert 0.99 < known["report"].headline() <= 1.00001


def test_every_record_that_a_claim_reads_is_there():
    known = records.all_records()
    for claim in register():
        assert set(claim.read) <= known.keys(), f"{claim.name} reads {set(claim.read) - known.keys()}"


def test_claims_table_is_computed_from_records():
    from companion import sphinx_book

    table = sphinx_book.claims_table()
    row = next(line for line in table.splitlines() if line.startswith("| C1 "))
    known = records.all_records()
    for setting in ("untrained", "trained"):
        assert f"on {setting} models: *{known[f'c1.null.verdict.{setting}']['value']}*" in row
    row = next(line for line in table.splitlines() if line.startswith("| C8 "))
    assert f"RMSNorm, necessary: *{known['stabilisers.c8.verdict.null']['value']}*" in row and "on RMSNorm" not in row
    assert f"| necessary: **{known['stabilisers.c8.verdict.necessary']['value']}**<br>helpful: " in row
    assert table.count("\n| C") == 10


def test_no_file_names_a_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, listed):
        path = ROOT / name
        if path.suffix in {".safetensors", ".png"} or not path.is_file():
            continue
        assert str(ROOT) + "/" not in path.read_text(errors="ignore") or ROOT.name in ("", "/"), name


class Links(HTMLParser):
    """Collects what a page loads, and what went wrong in rendering it."""

    def __init__(self):
        super().__init__()
        self.loaded, self.problems = [], []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.loaded.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "search", "index", "author"):
            self.loaded.append(given.get("href") or "")
        if "problematic" in (given.get("class") or "") or "system-message" in (given.get("class") or ""):
            self.problems.append(given)


@pytest.mark.skipif(not (HTML / "index.html").exists(), reason="the book is not built: run `make book` first")
def test_built_pages_need_no_network():
    pages = [HTML / "index.html", HTML / "bibliography.html", *sorted((HTML / "notebooks").glob("*.html"))]
    for page in pages:
        links = Links()
        text = page.read_text()
        links.feed(text)
        remote = [url for url in links.loaded if re.match(r"(https?:)?//", url)]
        assert not remote, f"{page.name} loads {remote}"
        assert not links.problems, f"{page.name}: {links.problems}"
        assert "mathjax/tex-svg.js" in text or 'class="math' not in text
        for url in links.loaded:
            local = url.split("?")[0].split("#")[0]
            if local and not local.startswith("data:"):
                assert (page.parent / local).exists(), f"{page.name} loads {url}, which is not there"
    styles = "".join(path.read_text(errors="ignore") for path in (HTML / "_static").rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)
