"""Makes the demo model: text -> speech -> training -> evaluation -> export. `make demo-model` runs `all`.

Every step can be run alone; each reads what the one before left in the work folder. Steps import what they need when
they run: training needs torch but not mlx, the export mlx but not torch.
`all` refuses a work folder that holds something.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tools.demo_model import corpus, mixture, speech

HELP = """\
Makes the small model that the project ships, from nothing but grammar sentences and two speech synthesizers.

What it needs
  * the Debian packages flite, espeak-ng, wamerican, wamerican-small, scowl, wspanish
    (apt-get install flite espeak-ng wamerican wamerican-small scowl wspanish)
  * Python packages: torch (which `make setup` does not install), and the project's own
  * one GPU with 24 GB or more for the shipped size: about 20 minutes on an H200, longer elsewhere (--minutes).
    Without a GPU: --device cpu --small --minutes 60 trains a smaller model, worse, but real.

Steps (each reads the work folder of the one before)
  all         speech and training at once, then evaluation and export: what `make demo-model` runs
  speech      only the speech shards
  train       tokenizer and training on the shards that are or will be in WORK/shards; --resume goes on
  evaluate    word error rates of the trained network, by engine, length and held-out voice
  average     WORK/master from the mean of several trained ones (--masters A B; one named twice counts twice)
  export      WORK/master -> a checkpoint folder (--layout mlx: 8-bit, shipped; --layout thinker: float)
  archive     packs the synthesizers for a machine where they cannot be installed (use it there with --archive)

Examples
  python -m tools.demo_model all --work build/demo --minutes 20 --hours 300
  going on from the shipped weights:
  python -m tools.demo_model speech --work build/more --hours 200 --seed 9 &
  python -m tools.demo_model train --work build/more --start-from engine/demo/model --rate 6e-4 --minutes 15 --seed 9
  python -m tools.demo_model export --work build/more
"""
SMALL = {"audio_width": 128, "audio_layers": 4, "audio_heads": 2, "audio_ffn": 512, "stem_channels": 32, "width": 192,
         "layers": 3, "ffn": 512}  # fmt: skip
MASTER_FILE_BYTES = 14_000_000


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo_model",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = ["all", "speech", "train", "evaluate", "average", "export", "archive"]
    parser.add_argument("step", choices=steps, nargs="?", default="all")
    parser.add_argument(
        "--work", type=Path, default=Path("build/demo"), help="work folder (default build/demo)"
    )
    parser.add_argument("--out", type=Path, default=Path("engine/demo/model"), help="where export writes")
    parser.add_argument("--archive", type=Path, help="unpacked synthesizers, instead of installed ones")
    parser.add_argument("--hours", type=float, default=300.0, help="hours of speech to make (default 300)")
    parser.add_argument("--workers", type=int, default=8, help="processes that make speech (default 8)")
    parser.add_argument("--minutes", type=float, default=20.0, help="minutes of training (default 20)")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--small", action="store_true", help="a smaller network, for training without a GPU")
    parser.add_argument("--batch-seconds", type=float, default=1200.0, help="seconds of speech in one step")
    parser.add_argument("--rate", type=float, default=1.2e-3, help="peak learning rate")
    parser.add_argument("--warmup", type=int, default=500, help="warm-up steps")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--start-from", default="", help="folder of weights, shipped or float, and tokenizer to go on from"
    )
    parser.add_argument("--masters", type=Path, nargs="+", default=[], help="folders to average")
    parser.add_argument("--resume", action="store_true", help="go on from WORK/run/state.pt")
    parser.add_argument(
        "--sentences", type=Path, default=Path("tools/eval"), help="folder of sentences_en.txt and _es"
    )
    parser.add_argument("--cases", type=int, default=300, help="evaluation clips up to 8 s per language")
    parser.add_argument("--master", type=Path, help="what export reads (default WORK/master)")
    parser.add_argument("--layout", choices=["mlx", "thinker"], default="mlx")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float16")
    return parser.parse_args(arguments)


def make_tokenizer(work: Path, seed: int, word_lists: Path | None, start_from: str = "") -> Any:
    """The one that is there; else that of the weights to start from, if it has the size wanted; else a new one."""
    from tools.demo_model import vocabulary

    folder = work / "master"
    if start_from and not folder.exists():
        older = vocabulary.read_tokenizer(Path(start_from))
        if older.get_vocab_size() == vocabulary.VOCABULARY_SIZE:
            vocabulary.write_tokenizer(older, folder)
    if (folder / "tokenizer.json").exists():
        return vocabulary.read_tokenizer(folder)
    started = time.monotonic()
    texts = chain(
        islice(mixture.sentences("English", seed + 90_001, word_lists), 90_000),
        islice(mixture.sentences("Spanish", seed + 90_002, word_lists), 60_000),
    )
    tokenizer = vocabulary.train_tokenizer(texts)
    vocabulary.write_tokenizer(tokenizer, folder)
    print(f"tokenizer: {tokenizer.get_vocab_size()} ids in {time.monotonic() - started:.0f} s", flush=True)
    return tokenizer


def word_lists(options: argparse.Namespace) -> Path | None:
    """The archive's word lists, or None for those Debian installed."""
    return options.archive / "dict" if options.archive else None


def network_size(small: bool) -> Any:
    """The shipped size, or the one for machines without a GPU."""
    from tools.demo_model import network

    return network.Size(**SMALL) if small else network.Size()


def chosen_device(name: str) -> Any:
    """The device to train on; asks for --device cpu rather than fall back to it unsaid."""
    import torch

    if name == "auto" and not torch.cuda.is_available():
        sys.exit("no CUDA GPU found. To train a smaller model on the CPU: --device cpu --small --minutes 60")
    return torch.device("cuda" if name == "auto" else name)


def write_master(master: Path, weights: dict[str, Any]) -> None:
    """The float16 weights, in files of at most 14 MB."""
    import torch

    from tools.demo_model.weights_file import write_weights

    files: list[dict[str, Any]] = [{}]
    for name, tensor in weights.items():
        if sum(t.numel() * 2 for t in files[-1].values()) + tensor.numel() * 2 > MASTER_FILE_BYTES:
            files.append({})
        files[-1][name] = tensor.to(torch.float16)
    for number, part in enumerate(files, 1):
        write_weights(master / f"model-{number:05d}-of-{len(files):05d}.safetensors", part)


def average_masters(options: argparse.Namespace) -> None:
    """The mean of trained weights that started from one another; tokenizer and sizes are the first one's."""
    from tools.demo_model.weights_file import read_weights

    if len(options.masters) < 2:
        sys.exit("average needs --masters with two folders or more")
    master = options.work / "master"
    master.mkdir(parents=True, exist_ok=True)
    for path in options.masters[0].iterdir():
        if path.suffix in (".json", ".txt"):
            shutil.copy(path, master / path.name)
    found = [read_weights(folder) for folder in options.masters]
    write_master(master, {name: sum(one[name] for one in found) / len(found) for name in found[0]})


def run_training(options: argparse.Namespace) -> None:
    """Tokenizer, training, and the float16 master with its sizes and record."""
    import torch

    from tools.demo_model import optimization, train, vocabulary

    tokenizer = make_tokenizer(options.work, options.seed, word_lists(options), options.start_from)
    device, size = chosen_device(options.device), network_size(options.small)
    plan = optimization.TrainingPlan(
        minutes=options.minutes, batch_seconds=options.batch_seconds, peak_rate=options.rate, seed=options.seed,
        warmup_steps=options.warmup,
        start_from=options.start_from, pool_hours=max(1.0, options.hours * 1.1),
    )  # fmt: skip
    prompt = vocabulary.Prompt.of(tokenizer, speech.LANGUAGES)
    run = options.work / "run"
    record = train.train(options.work / "shards", run, tokenizer, prompt, size, plan, device, options.resume)
    record["plan"] = dataclasses.asdict(plan)
    record["machine"] = {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tokenizers": version("tokenizers"),
    }
    master = options.work / "master"
    (master / "sizes.json").write_text(
        json.dumps(dataclasses.asdict(size), indent=2) + "\n", encoding="utf-8"
    )
    weights = train.trained_parameters(run, size, torch.device("cpu"))
    write_master(master, weights)
    (options.work / "training_run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(
        f"trained: {record['steps']} steps, {record['training_seconds']:.0f} s, {record['hours_heard']} h heard"
    )


def run_evaluation(options: argparse.Namespace) -> None:
    """Judge the master and add the figures to the training record."""
    from tools.demo_model import evaluate, train, vocabulary

    device, size = chosen_device(options.device), network_size(options.small)
    tokenizer = make_tokenizer(options.work, options.seed, word_lists(options))
    sentences = {}
    for language, code in zip(speech.LANGUAGES, ("en", "es"), strict=True):
        path = options.sentences / f"sentences_{code}.txt"
        if path.exists():
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            sentences[language] = [line for line in lines if line and not line.startswith("#")]
        else:
            print(
                f"no {path.name}: judged on the generator's own kind of sentences, other ones than in training"
            )
            sentences[language] = list(
                islice(mixture.sentences(language, 987_654_321, word_lists(options)), 500)
            )
    count = options.cases
    started = time.monotonic()
    cases = evaluate.speech_cases(sentences, options.archive, options.workers, count, count // 3, count // 2)
    cases += evaluate.silent_cases(200, [" ".join(pair) for pair in zip(*sentences.values(), strict=False)])
    print(f"evaluation: {len(cases)} clips made in {time.monotonic() - started:.0f} s", flush=True)
    weights = train.trained_parameters(options.work / "run", size, device)
    prompt = vocabulary.Prompt.of(tokenizer, speech.LANGUAGES)
    figures = evaluate.judge(weights, size, tokenizer, prompt, cases, device)
    worst = figures.pop("worst")
    for group, found in worst.items():
        for errors, wanted, got in found[:4]:
            print(f"[{group}] {errors}\n   wanted {wanted}\n   got    {got}")
    print(json.dumps(figures, indent=1), flush=True)
    path = options.work / "training_run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["evaluation_beside_training"] = figures
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run one step, or all."""
    options = parse(arguments)
    if options.step == "archive":
        from tools.demo_model import archive

        print(archive.build_archive(options.work / "synthesizers"))
    elif options.step == "speech":
        # An ordinary exit ends the workers too; a bare SIGTERM would leave them behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        corpus.synthesize_corpus(
            options.work / "shards", options.hours, options.workers, options.seed, options.archive
        )
    elif options.step == "train":
        run_training(options)
    elif options.step == "evaluate":
        run_evaluation(options)
    elif options.step == "average":
        average_masters(options)
    elif options.step == "export":
        from tools.demo_model import export

        size = export.export(
            options.master or options.work / "master", options.out, options.layout, options.dtype
        )
        print(f"{options.out}: {size / 1e6:.2f} MB")
    else:
        if options.archive is None:
            speech.Programs.installed()  # says which packages are missing before anything is begun
        chosen_device(options.device)
        if options.work.exists() and any(options.work.iterdir()):
            sys.exit(f"{options.work} is not empty: remove it or name another --work")
        shared = [sys.executable, "-m", "tools.demo_model"]
        rest = [*(arguments if arguments is not None else sys.argv[1:])]
        rest = [argument for argument in rest if argument != "all"]
        maker = subprocess.Popen([*shared, "speech", *rest])
        try:
            run_training(options)
        finally:
            maker.terminate()
            maker.wait()
        run_evaluation(options)
        subprocess.run([*shared, "export", *rest], check=True)


if __name__ == "__main__":
    main()
