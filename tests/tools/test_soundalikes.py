"""The frames for words that sound alike: all of them can be filled, and the evaluation is none of them."""

import re
from pathlib import Path
from random import Random

from tools.demo_model import mixture
from tools.demo_model.lexicon import Lexicon, folded_words, load_sections
from tools.demo_model.soundalikes_en import Soundalikes

ROOT = Path(__file__).parents[2]
LEXICON = Lexicon(load_sections(ROOT / "tools/demo_model/vocabulary_en.txt"))
RUN_WORDS = 5


def runs(text: str) -> set[tuple[str, ...]]:
    words = folded_words(text)
    return {tuple(words[at : at + RUN_WORDS]) for at in range(len(words) - RUN_WORDS + 1)}


def test_every_frame_can_be_filled() -> None:
    soundalikes, rng = Soundalikes(LEXICON), Random(3)
    heard = [soundalikes.sentence(rng) for _ in range(4000)]
    assert not any("{" in sentence or "}" in sentence for sentence in heard)
    assert len(set(heard)) > 1500


def test_no_run_of_five_words_of_a_frame_stands_in_the_evaluation() -> None:
    evaluation = (ROOT / "tools/eval/sentences_en.txt").read_text(encoding="utf-8").splitlines()
    judged = set().union(*map(runs, evaluation))
    for frame in Soundalikes(LEXICON).frames:
        for fixed in re.split(r"\{\w+\}", frame):
            assert not runs(fixed) & judged, frame


def test_common_words_stand_in_for_grammar_words_more_often(tmp_path: Path) -> None:
    folder = tmp_path / "dict"
    (folder / "scowl").mkdir(parents=True)
    (folder / "american-english").write_text("zebrawood\nquagmire\n")
    (folder / "american-english-small").write_text("lanterns\n")
    (folder / "scowl/english-words.10").write_text("window\n")
    (folder / "scowl/english-words.20").write_text("harbor\n")
    source = mixture._source("English", folder)
    rng = Random(5)
    drawn = [source.with_list_words("zzzzb", rng) for _ in range(4000)]  # a word that no list holds
    common = sum(word in ("window", "harbor") for word in drawn)
    rare = sum(word in ("zebrawood", "quagmire") for word in drawn)
    assert common > 2 * rare > 0


def test_without_the_lists_of_common_words_the_next_ones_stand_in(tmp_path: Path) -> None:
    (tmp_path / "american-english").write_text("quagmire\n")
    source = mixture._source("English", tmp_path)
    rng = Random(6)
    drawn = {source.with_list_words("zzzzb", rng) for _ in range(400)}
    assert drawn == {"quagmire", "zzzzb"}


def test_words_that_are_two_common_ones_are_found_and_drawn_apart(tmp_path: Path) -> None:
    folder = tmp_path / "dict"
    (folder / "scowl").mkdir(parents=True)
    (folder / "american-english").write_text("bedtime\nzebrawood\nagoing\ntimetime\n")
    (folder / "american-english-small").write_text("lanterns\n")
    (folder / "scowl/english-words.10").write_text("time\nbed\na\ngoing\n")
    lists = [["time", "bed", "going"], ["lanterns"], ["bedtime", "zebrawood", "agoing", "timetime"]]
    assert mixture.compounds(lists) == ["bedtime", "timetime"]
    source = mixture._source("English", folder)
    rng = Random(8)
    # Of its ending there are "time", "bedtime" and "timetime" in the lists; both compounds also in one of their own.
    drawn = [source.with_list_words("xxxxe", rng) for _ in range(6000)]
    put_in = [word for word in drawn if word != "xxxxe"]
    compounds = sum(word in ("bedtime", "timetime") for word in put_in) / len(put_in)
    from_whole_list = (1 - mixture.COMPOUND_SHARE) * mixture.LIST_SHARES[2]
    assert compounds > from_whole_list + 0.5 * mixture.COMPOUND_SHARE
