"""Makes the demo aligner: speech with word times -> training -> evaluation -> export. `make demo-model` runs `all`.

Every step can be run alone; each reads what the one before left in the work folder. `all` refuses a work folder that
holds something.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.demo_model import __main__ as recognizer
from tools.demo_model import corpus, speech
from tools.demo_model.alignment.corpus import write_timed_shard
from tools.demo_model.checkpoint_files import read_sizes

HELP = """\
Makes the small aligner that the project ships: it goes on from the demo model's weights and learns when each word is
said, from what two speech synthesizers say of their own utterances.

What it needs
  * the Debian packages flite, espeak-ng, wamerican, wamerican-small, scowl, wspanish
    (apt-get install flite espeak-ng wamerican wamerican-small scowl wspanish)
  * Python packages: torch (which `make setup` does not install), and the project's own
  * one GPU with 24 GB or more: about 8 minutes on an H100, longer elsewhere (--minutes).
    Without a GPU: --device cpu --small --minutes 60 trains a smaller network from nothing, worse, but real.

Steps (each reads the work folder of the one before)
  all         speech and training at once, then evaluation and export: what `make demo-model` runs
  measure     speech and training at once, then evaluation: for a machine without mlx
  speech      only the speech shards
  train       training on the shards that are or will be in WORK/shards; --resume goes on, --stop-after ends early
  evaluate    distance of the trained network's word borders from the true ones
  export      WORK/master -> a checkpoint folder

Examples
  python -m tools.demo_model.alignment all --work build/aligner --minutes 8 --hours 120
  in two sittings:
  python -m tools.demo_model.alignment measure --work build/aligner --minutes 14 --stop-after 7
  python -m tools.demo_model.alignment train --work build/aligner --minutes 14 --resume
  the decoder alone, on from the shipped weights, on two cores:
  python -m tools.demo_model.alignment speech --work build/more --hours 13 --workers 2 --seed 2300
  python -m tools.demo_model.alignment speech --work build/more --hours 24 --workers 2 --seed 2900 --paragraphs-only
  python -m tools.demo_model.alignment train --work build/more --hours 24 --start-from engine/demo/aligner \
      --hearings 2 --device cpu --dtype bfloat16 --batch-seconds 50 --warmup 100 --minutes 90
"""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.demo_model.alignment",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = ["all", "measure", "speech", "train", "evaluate", "export"]
    parser.add_argument("step", choices=steps, nargs="?", default="all")
    parser.add_argument(
        "--work", type=Path, default=Path("build/aligner"), help="work folder (default build/aligner)"
    )
    parser.add_argument("--out", type=Path, default=Path("engine/demo/aligner"), help="where export writes")
    parser.add_argument("--archive", type=Path, help="unpacked synthesizers, instead of installed ones")
    parser.add_argument("--hours", type=float, default=120.0, help="hours of speech to make (default 120)")
    parser.add_argument("--workers", type=int, default=8, help="processes that make speech (default 8)")
    parser.add_argument("--minutes", type=float, default=8.0, help="minutes of training (default 8)")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="minutes of training in this call")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    parser.add_argument("--small", action="store_true", help="a smaller network, for training without a GPU")
    parser.add_argument("--batch-seconds", type=float, default=1200.0, help="seconds of speech in one step")
    parser.add_argument("--rate", type=float, default=8e-4, help="peak learning rate (default 8e-4)")
    parser.add_argument("--warmup", type=int, default=300, help="warm-up steps (default 300)")
    parser.add_argument(
        "--paragraphs-only",
        action="store_true",
        help="for `speech`: clips of several sentences alone, 7 to 30 s, where the clock is read worst",
    )
    parser.add_argument(
        "--hearings",
        type=int,
        default=0,
        help="for `train` and `evaluate`: keep the encoder as it is, let it hear every clip so often, and train the"
        " decoder alone on that (default 0: train everything)",
    )
    parser.add_argument(
        "--dtype", choices=["auto", "bfloat16", "float32"], default="auto", help="what is computed in"
    )
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument(
        "--start-from",
        type=Path,
        default=Path("engine/demo/model"),
        help="folder of weights and tokenizer to go on from (default the demo model; --small takes its tokenizer only)",
    )
    parser.add_argument("--resume", action="store_true", help="go on from WORK/run/state.pt")
    parser.add_argument(
        "--sentences", type=Path, default=Path("tools/eval"), help="folder of sentences_en.txt and _es"
    )
    parser.add_argument("--cases", type=int, default=240, help="short evaluation clips per language")
    parser.add_argument("--master", type=Path, help="what export reads (default WORK/master)")
    return parser.parse_args(arguments)


def network_size(options: argparse.Namespace) -> Any:
    """The size of the weights to start from; with --small, a smaller one with as many ids."""
    from tools.demo_model import network

    size = network.Size(**read_sizes(options.start_from))
    if options.small:
        return dataclasses.replace(recognizer.network_size(True), vocabulary=size.vocabulary)
    return size


def encoder_from(options: argparse.Namespace) -> Path | None:
    """The folder of the encoder's weights if they are not trained."""
    return Path(options.start_from) if options.hearings else None


def run_training(options: argparse.Namespace) -> None:
    """Training, and the float16 master with its tokenizer, sizes and record."""
    import torch

    from tools.demo_model import optimization, vocabulary
    from tools.demo_model.alignment import train

    master = options.work / "master"
    master.mkdir(parents=True, exist_ok=True)
    for name in vocabulary.TOKENIZER_FILES:
        shutil.copy(options.start_from / name, master / name)
    tokenizer = vocabulary.read_tokenizer(master)
    device, size = recognizer.chosen_device(options.device), network_size(options)
    plan = optimization.TrainingPlan(
        minutes=options.minutes, batch_seconds=options.batch_seconds, peak_rate=options.rate, seed=options.seed,
        warmup_steps=options.warmup, start_from="" if options.small else str(options.start_from),
        pool_hours=max(1.0, options.hours * 1.1), dtype=options.dtype,
    )  # fmt: skip
    run = options.work / "run"
    record = train.train(
        options.work / "shards", run, tokenizer, size, plan, device, options.resume, options.stop_after,
        options.hearings,
    )  # fmt: skip
    record["hearings"] = options.hearings
    record["plan"] = dataclasses.asdict(plan) | {
        "start_from": options.start_from.name if plan.start_from else ""
    }
    record["machine"] = {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tokenizers": version("tokenizers"),
    }
    (master / "sizes.json").write_text(
        json.dumps(dataclasses.asdict(size), indent=2) + "\n", encoding="utf-8"
    )
    weights = train.trained_parameters(run, size, torch.device("cpu"), encoder_from(options))
    recognizer.write_master(master, weights)
    (options.work / "training_run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(
        f"trained: {record['steps']} steps, {record['training_seconds']:.0f} s, {record['hours_heard']} h heard"
    )


def run_evaluation(options: argparse.Namespace) -> None:
    """Judge the master and add the figures to the training record."""
    from tools.demo_model import vocabulary
    from tools.demo_model.alignment import evaluate, train

    device, size = recognizer.chosen_device(options.device), network_size(options)
    sentences = {}
    for language, code in zip(speech.LANGUAGES, ("en", "es"), strict=True):
        text = (options.sentences / f"sentences_{code}.txt").read_text(encoding="utf-8")
        sentences[language] = [line for line in text.splitlines() if line.strip()]
    started = time.monotonic()
    cases = evaluate.timed_cases(sentences, options.archive, options.workers, options.cases)
    print(f"evaluation: {len(cases)} clips made in {time.monotonic() - started:.0f} s", flush=True)
    weights = train.trained_parameters(options.work / "run", size, device, encoder_from(options))
    tokenizer = vocabulary.read_tokenizer(options.work / "master")
    figures = evaluate.judge(weights, size, tokenizer, cases, device)
    print(json.dumps(figures, indent=1), flush=True)
    path = options.work / "training_run.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["evaluation_beside_training"] = figures
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run one step, or all."""
    options = parse(arguments)
    if options.hearings and (options.small or options.step in ("all", "measure")):
        sys.exit(
            "--hearings goes on from trained weights and from speech that is there: with `train`, without --small"
        )
    if options.step == "speech":
        # An ordinary exit ends the workers too; a bare SIGTERM would leave them behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        corpus.synthesize_corpus(
            options.work / "shards",
            options.hours,
            options.workers,
            options.seed,
            options.archive,
            functools.partial(write_timed_shard, paragraphs_only=options.paragraphs_only),
        )
    elif options.step == "train":
        run_training(options)
    elif options.step == "evaluate":
        run_evaluation(options)
    elif options.step == "export":
        from tools.demo_model import export

        size = export.export(options.master or options.work / "master", options.out)
        print(f"{options.out}: {size / 1e6:.2f} MB")
    else:
        if options.archive is None:
            speech.Programs.installed()  # says which packages are missing before anything is begun
        recognizer.chosen_device(options.device)
        if not options.resume and options.work.exists() and any(options.work.iterdir()):
            sys.exit(f"{options.work} is not empty: remove it or name another --work")
        shared = [sys.executable, "-m", "tools.demo_model.alignment"]
        rest = [*(arguments if arguments is not None else sys.argv[1:])]
        rest = [argument for argument in rest if argument not in ("all", "measure")]
        maker = subprocess.Popen([*shared, "speech", *rest])
        try:
            run_training(options)
        finally:
            maker.terminate()
            maker.wait()
        run_evaluation(options)
        if options.step == "all":
            subprocess.run([*shared, "export", *rest], check=True)


if __name__ == "__main__":
    main()
