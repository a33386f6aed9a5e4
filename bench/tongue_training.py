"""Teach a viseme network which dentals show the tongue: `python -m bench.tongue_training visemes.npz`.

Logistic regression (Cox 1958) on the network's last hidden layer: θ, ð and l against the other dentals of flite's and
espeak-ng's voices, half of them in noise. Takes a minute on one core and no torch; the result goes into the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.viseme_speakers import all_speakers, resize
from retalking_core.audio import visemes
from retalking_core.audio.visemes import Viseme, band_levels, hidden_activity, normalize_levels
from retalking_core.types import Waveform

# Recorded voices weigh more: they say th, which few languages of espeak-ng have.
FLITE_S, ESPEAK_S = 120.0, 8.0
NOISE_DB = (-50.0, -10.0)
PENALTY, STEPS = 1e-3, 25


def hear_dentals(seed: int, left_out: list[str]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Hidden activity [N, 160] of frames of dentals, and whether each shows the tongue."""
    chance = np.random.default_rng(seed)
    activity, shown = [], []
    for name, speak in all_speakers(chance):
        is_flite = name.startswith("flite")
        if any(part in name for part in left_out) or not (is_flite or name.startswith("espeak")):
            continue
        heard_s = 0.0
        while heard_s < (FLITE_S if is_flite else ESPEAK_S):
            for text in speak(1):
                spoken = resize(text, chance.uniform(0.88, 1.25)) if is_flite else text
                heard_s += spoken.speech.duration_s
                samples = spoken.speech.samples
                level = 10 ** (chance.uniform(*NOISE_DB) / 20) * (chance.random() < 0.5) * samples.std()
                noisy = samples + level * chance.normal(size=len(samples)).astype(np.float32)
                hidden = hidden_activity(normalize_levels(band_levels(Waveform(noisy.astype(np.float32)))))
                dental = spoken.labels()[: len(hidden)] == Viseme.DENTAL
                activity.append(hidden[: len(dental)][dental].astype(np.float64))
                shown.append(spoken.tongue()[: len(hidden)][dental])
        print(f"{name}: {heard_s:.0f} s", flush=True)
    return np.concatenate(activity), np.concatenate(shown)


def fit(activity: NDArray[np.float64], shown: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights f32 [160] and bias f32 [] by Newton's method; both kinds of dentals weigh the same, and large weights of
    standardized activity are penalized."""
    mean, spread = activity.mean(axis=0), activity.std(axis=0) + 1e-3
    inputs = np.column_stack([(activity - mean) / spread, np.ones(len(activity))])
    importance = np.where(shown, 0.5 / shown.mean(), 0.5 / (1 - shown.mean())) / len(shown)
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        found = 1 / (1 + np.exp(-inputs @ weights))
        slope = inputs.T @ (importance * (found - shown)) + PENALTY * weights
        curvature = (inputs.T * (importance * found * (1 - found))) @ inputs + PENALTY * np.eye(len(weights))
        weights -= np.linalg.solve(curvature, slope)
    right = [((inputs @ weights > 0) == shown)[shown == kind].mean() for kind in (True, False)]
    print(f"frames right: {100 * right[0]:.0f} % of th and l, {100 * right[1]:.0f} % of other dentals")
    kernel = weights[:-1] / spread
    return kernel.astype(np.float32), np.float32(weights[-1] - mean @ kernel).reshape(())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "network", type=Path, help="a result of `viseme_training train`; two of its arrays are replaced"
    )
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="VOICE", help="parts of names of voices")
    arguments = parser.parse_args()
    with np.load(arguments.network, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    visemes.NETWORK_FILE = arguments.network
    kernel, bias = fit(*hear_dentals(arguments.seed, arguments.leave_out))
    np.savez_compressed(arguments.network, **(arrays | {"kernel_tongue": kernel, "bias_tongue": bias}))


if __name__ == "__main__":
    main()
