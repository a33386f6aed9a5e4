"""Train the network of `retalking_core.audio.visemes` in two steps, the second of which needs torch and numpy alone:

    python -m bench.viseme_training prepare speech.npz             # synthesizers
    python bench/viseme_training.py train speech.npz visemes.npz   # --seconds and --steps: docs/visemes.md

`--leave-out VOICE` trains without a speaker and prints how well the network hears that speaker ("kal" leaves out all
three programs that have his voice).

The data are levels of mel bands in half dB and a class for each frame. All augmentation happens on them while training:
speed, length of the vocal tract, color, rooms, noise, other voices, telephone bands.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

BANDS, CLASSES, CHANNELS = 40, 9, 160
KERNEL, DILATIONS = 3, (1, 2, 4, 8, 1, 2, 4, 8, 1)
RANGE_DB, ACTIVE_DB, SCALE_DB = 60.0, 25.0, 15.0
LOWEST_DB, STEP_DB = -100.0, 0.5
# Recorded voices of the language of most users weigh twice.
ENGLISH_VOICES = (
    *("ked_diphone", "kal_diphone", "awb", "kal16", "en-US", "en-GB"),
    *("rms", "slt", "arctic_hts", "alan", "bdl", "clb"),
)
SEQUENCE, BATCH = 400, 128
# Closed lips are what a viewer sees first, and the rarest sounds.
WEIGHTS = (1.0, 1.25, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)


def prepare(result: Path, minutes: float, seed: int, chosen: list[str]) -> None:
    """Write levels u8 [N, 40], labels u8 [N] and voice i16 [N]; the last voice is music, all silence.

    chosen: parts of names of voices; where it is empty, all and music.
    """
    from bench.viseme_speakers import all_speakers, resize
    from retalking_core.audio.visemes import band_levels
    from retalking_core.types import Waveform

    chance = np.random.default_rng(seed)
    levels, labels, voices, names = [], [], [], []
    speakers = [each for each in all_speakers(chance) if not chosen or any(part in each[0] for part in chosen)]
    for number, (name, speak) in enumerate(speakers):
        english = not name.startswith("espeak") and name.endswith(ENGLISH_VOICES)
        share_s = 60 * minutes / len(speakers) * (0.5 if name.startswith("espeak") else 3.0 if english else 1.4)
        heard_s = 0.0
        while heard_s < share_s:
            texts = list(speak(8))
            if not texts:
                raise SystemExit(f"{name} says nothing: is all of it installed?")
            for text in texts:
                spoken = text if name.startswith("espeak") else resize(text, chance.uniform(0.88, 1.25))
                found = spoken.labels()
                level = band_levels(spoken.speech)
                levels.append(np.clip((level - LOWEST_DB) / STEP_DB, 0, 255).astype(np.uint8))
                labels.append(found[: len(level)].astype(np.uint8))
                voices.append(np.full(len(level), number, np.int16))
                heard_s += spoken.speech.duration_s
        names.append(name)
        print(f"{name}: {heard_s:.0f} s", flush=True)
    if not chosen:
        for _ in range(80):
            level = band_levels(Waveform(make_music(chance, 6.0)))
            levels.append(np.clip((level - LOWEST_DB) / STEP_DB, 0, 255).astype(np.uint8))
            labels.append(np.zeros(len(level), np.uint8))
            voices.append(np.full(len(level), len(speakers), np.int16))
        names.append("music")
    np.savez_compressed(
        result,
        levels=np.concatenate(levels),
        labels=np.concatenate(labels),
        voices=np.concatenate(voices),
        names=np.array(names),
    )


def make_music(chance: np.random.Generator, seconds: float, rate_hz: int = 16_000) -> NDArray[np.float32]:
    """Chords, melodies and drums from oscillators: what is loud and modulated, and is not speech."""
    count = int(seconds * rate_hz)
    times_s = np.arange(count) / rate_hz
    sound = np.zeros(count)
    beat_s = chance.uniform(0.2, 0.7)
    for _ in range(chance.integers(1, 5)):
        decay_s, attack_s, harmonics = chance.uniform(0.1, 1.5), chance.uniform(0.002, 0.08), chance.integers(1, 14)
        tilt, length = chance.uniform(0.5, 2.0), chance.choice([0.5, 1.0, 2.0, 4.0])
        vibrato_hz, depth = chance.uniform(4, 7), chance.choice([0.0, 0.005])
        loud = chance.uniform(0.1, 1.0)
        for start_s in np.arange(0, seconds, beat_s * length):
            pitch_hz = 55 * 2 ** (chance.integers(0, 48) / 12)
            after_s = times_s - start_s
            inside = (after_s >= 0) & (after_s < 4 * decay_s)
            local_s = after_s[inside]
            envelope = np.minimum(local_s / attack_s, 1) * np.exp(-local_s / decay_s) * loud
            phase = 2 * np.pi * pitch_hz * (local_s + depth * np.sin(2 * np.pi * vibrato_hz * local_s) / vibrato_hz)
            for k in range(1, harmonics + 1):
                if k * pitch_hz < rate_hz / 2:
                    sound[inside] += envelope * np.sin(k * phase + chance.uniform(0, 6.3)) / k**tilt
    if chance.random() < 0.6:
        for start_s in np.arange(0, seconds, beat_s):
            length = int(rate_hz * chance.uniform(0.03, 0.2))
            start = int(start_s * rate_hz)
            hit = chance.normal(size=length) * np.exp(-np.arange(length) / (length / 5)) * chance.uniform(0.1, 1)
            low = np.sin(2 * np.pi * chance.uniform(50, 120) * np.arange(length) / rate_hz)
            hit = hit if chance.random() < 0.6 else low * np.exp(-np.arange(length) / (length / 3))
            sound[start : start + length] += hit[: max(0, count - start)]
    return (0.3 * sound / max(1e-3, np.abs(sound).max())).astype(np.float32)


class Network(nn.Module):
    """Residual dilated convolutions over time; batch norm is folded into them for `weights`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(BANDS, CHANNELS, 5, padding=2)
        self.first_norm = nn.BatchNorm1d(CHANNELS)
        self.layers = nn.ModuleList(
            nn.Conv1d(CHANNELS, CHANNELS, KERNEL, padding=d, dilation=d, bias=False) for d in DILATIONS
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(CHANNELS) for _ in DILATIONS)
        self.last = nn.Conv1d(CHANNELS, CLASSES, 1)

    def forward(self, levels: Tensor) -> Tensor:
        """levels: [B, 40, T] normalized -> logits [B, 9, T]."""
        x = F.relu(self.first_norm(self.first(levels)))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + F.dropout(F.relu(norm(layer(x))), 0.15, self.training)
        return self.last(x)

    def weights(self) -> dict[str, NDArray[Any]]:
        """Arrays of the file: kernels i8 [taps, in, out], to be multiplied by scales f32 [out]; biases f32 [out]."""
        found = {}
        pairs = [(self.first, self.first_norm), *zip(self.layers, self.norms, strict=True)]
        for k, (layer, norm) in enumerate(pairs):
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            bias = norm.bias - norm.running_mean * scale
            if layer.bias is not None:
                bias = bias + layer.bias * scale
            found[str(k)] = (layer.weight * scale[:, None, None], bias)
        found["out"] = (self.last.weight, self.last.bias)
        arrays: dict[str, NDArray[Any]] = {"dilations": np.array(DILATIONS, np.int64)}
        # No dental shows the tongue until `bench.tongue_training` has learned which do.
        arrays |= {"kernel_tongue": np.zeros(CHANNELS, np.float32), "bias_tongue": np.array(-20, np.float32)}
        for name, (kernel, bias) in found.items():
            weights = kernel.detach().float().cpu().permute(2, 1, 0).numpy()
            scales = np.abs(weights).max(axis=(0, 1)) / 127
            arrays[f"kernel_{name}"] = np.round(weights / scales).astype(np.int8)
            arrays[f"scale_{name}"] = scales.astype(np.float32)
            arrays[f"bias_{name}"] = bias.detach().float().cpu().numpy()
        return arrays


def normalize(levels: Tensor) -> Tensor:
    """dB [B, T, 40] -> what the network sees [B, 40, T]; the same as `normalize_levels` of the product."""
    loudness = levels.max(dim=2).values
    loud = torch.maximum(torch.quantile(loudness, 0.95, dim=1, keepdim=True), loudness.amax(1, keepdim=True) - 12)
    heard = torch.maximum(levels, (loud - RANGE_DB)[:, :, None])
    active = (loudness > loud - ACTIVE_DB).float()[:, :, None]
    mean = (heard * active).sum(1, keepdim=True) / active.sum(1, keepdim=True).clamp(min=1)
    return ((heard - mean) / SCALE_DB).clamp(-3, 3).transpose(1, 2)


class Augmenter:
    """Makes batches of what a microphone might hear. Levels stay in dB, sums are of powers."""

    def __init__(self, data: Any, device: str, seed: int) -> None:
        self.levels = torch.from_numpy(data["levels"]).to(device)
        self.labels = torch.from_numpy(data["labels"]).to(device)
        voices = data["voices"]
        music = voices == voices.max()
        self.speech = torch.tensor([0, int(np.flatnonzero(music)[0])])
        self.music = torch.tensor([int(np.flatnonzero(music)[0]), len(voices)])
        self.device = device
        self.chance = torch.Generator(device=device).manual_seed(seed)
        # Center of each band, and how many periodogram bins it averages: fewer bins, more restless noise.
        hz = np.array(band_centers_hz())
        self.centers_hz = torch.tensor(hz, dtype=torch.float32, device=device)
        freedom = torch.clamp(self.centers_hz / 800, 1.0, 8.0)[None].expand(200_000, -1).contiguous()
        self.restless = torch._standard_gamma(freedom) / freedom

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.chance, device=self.device)

    def happens(self, share: float, count: int) -> Tensor:
        return (torch.rand(count, 1, 1, generator=self.chance, device=self.device) < share).float()

    def cut(self, bounds: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Random stretches at 0.75 to 1.3 of their speed: dB [count, SEQUENCE, 40], labels."""
        speed = self.uniform(0.75, 1.3, count, 1)
        room = int(bounds[1] - bounds[0]) - 2 * SEQUENCE
        start = int(bounds[0]) + (self.uniform(0, 1, count, 1) * room).long()
        place = torch.arange(SEQUENCE, device=self.device)[None] * speed
        below = place.floor().long()
        part = (place - below)[:, :, None]
        first, second = self.levels[start + below].float(), self.levels[start + below + 1].float()
        labels = self.labels[start + (place + 0.5).floor().long()].long()
        return LOWEST_DB + STEP_DB * (first * (1 - part) + second * part), labels

    def warp(self, levels: Tensor) -> Tensor:
        """Another length of the vocal tract: band at f takes the level at f times 0.82 to 1.22, throat and mouth each
        by their own factor, as between the sexes (Fant 1966)."""
        count = len(levels)
        factor = self.uniform(0.85, 1.18, count, 1)
        slope = self.uniform(-0.04, 0.04, count, 1) * torch.linspace(-1, 1, BANDS, device=self.device)[None]
        wanted = (self.centers_hz[None] * (factor + slope)).clamp(max=float(self.centers_hz[-1]))
        right = torch.searchsorted(self.centers_hz, wanted.contiguous()).clamp(1, BANDS - 1)
        low, high = self.centers_hz[right - 1], self.centers_hz[right]
        part = ((wanted - low) / (high - low)).clamp(0, 1)[:, None, :]
        index = right[:, None, :].expand(-1, levels.shape[1], -1)
        return levels.gather(2, index - 1) * (1 - part) + levels.gather(2, index) * part

    def mask(self, levels: Tensor) -> Tensor:
        """Bands and moments that are missing, so that no cue is the only one (Park et al. 2019, SpecAugment)."""
        for dim, most, share in ((2, 7, 0.4), (1, 6, 0.4)):
            size, count = levels.shape[dim], len(levels)
            start, width = self.uniform(0, size, count, 1), self.uniform(0, most, count, 1)
            place = torch.arange(size, device=self.device)[None]
            missing = ((place >= start) & (place < start + width)).float()
            missing = missing[:, :, None] if dim == 1 else missing[:, None, :]
            levels = levels * (1 - missing * self.happens(share, count))
        return levels

    def color(self, count: int, strength_db: float) -> Tensor:
        """Smooth gain over the bands in dB [count, 1, 40]."""
        x = torch.linspace(0, 1, BANDS, device=self.device)
        gain = self.uniform(-strength_db, strength_db, count, 1) * (x - 0.5)[None] * 2
        for k in (1, 2, 3, 5):
            phase = self.uniform(0, 6.28, count, 1)
            gain = gain + self.uniform(0, strength_db / 2, count, 1) / k**0.5 * torch.cos(
                6.28 * k * x[None] / 2 + phase
            )
        return gain[:, None, :]

    def reverberate(self, power: Tensor) -> Tensor:
        """A decaying tail of 0.15 to 0.8 s, 0 to 20 dB below the direct sound in all."""
        count, length = len(power), 60
        decay_s = self.uniform(0.15, 0.8, count, 1)
        taps = torch.arange(1, length, device=self.device)[None] / 100
        tail = 10 ** (-6 * taps / decay_s)
        tail = tail / tail.sum(1, keepdim=True) * 10 ** (-self.uniform(0, 20, count, 1) / 10)
        kernel = torch.cat([torch.ones(count, 1, device=self.device), tail], dim=1)
        # A matrix for each sequence, which holds its kernel on the diagonals.
        times = torch.arange(SEQUENCE, device=self.device)
        lag = times[:, None] - times[None]
        matrix = kernel[:, lag.clamp(0, length - 1).flatten()].reshape(count, SEQUENCE, SEQUENCE)
        heard = torch.bmm(matrix * ((lag >= 0) & (lag < length)), power)
        return torch.where(self.happens(0.35, count) > 0, heard, power)

    def blur(self, levels: Tensor) -> Tensor:
        """What statistical synthesizers do: levels smeared over time and bands."""
        count = len(levels)
        for dim, reach, most in ((1, 4, 1.8), (2, 2, 1.0)):
            width = self.uniform(0.25, most, count, 1, 1)
            taps = [torch.exp(-0.5 * (k / width) ** 2) for k in range(-reach, reach + 1)]
            smooth = sum(tap * levels.roll(k, dim) for k, tap in zip(range(-reach, reach + 1), taps, strict=True))
            levels = torch.where(self.happens(0.4, count) > 0, smooth / sum(taps), levels)
        return levels

    def noise(self, count: int) -> Tensor:
        """Power of steady noise with a color and of slow changes, mean about 1 [count, SEQUENCE, 40]."""
        start = (self.uniform(0, 1, count, 1) * (len(self.restless) - SEQUENCE)).long()
        restless = self.restless[start + torch.arange(SEQUENCE, device=self.device)[None]]
        restless = (restless + 0.6 * restless.roll(1, 1)) / 1.6
        swing = F.interpolate(self.uniform(-6, 6, count, 1, 8), size=SEQUENCE, mode="linear")[:, 0, :, None]
        swing = swing * self.happens(0.4, count)
        return restless * 10 ** ((self.color(count, 22) + swing) / 10)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Normalized levels [BATCH, 40, SEQUENCE] and labels [BATCH, SEQUENCE]."""
        levels, labels = self.cut(self.speech, BATCH)
        levels = self.blur(self.warp(levels))
        loud = torch.quantile(levels.max(2).values, 0.95, dim=1)[:, None, None]
        levels = levels - loud
        # Dynamics: a slow gain, a compressor.
        drift = F.interpolate(self.uniform(-8, 4, BATCH, 1, 5), size=SEQUENCE, mode="linear")[:, 0, :, None]
        levels = levels + drift * self.happens(0.4, BATCH)
        speech = self.reverberate(10 ** (levels / 10))
        others = 10 ** ((self.cut(self.speech, BATCH)[0] - loud) / 10)
        babble = (others + others.roll(1, 0) + others.roll(2, 0) + others.roll(3, 0)) / 4
        music = self.cut(self.music, BATCH)[0]
        music = 10 ** ((music - torch.quantile(music.max(2).values, 0.95, dim=1)[:, None, None]) / 10)

        def below(low: float, high: float) -> Tensor:
            return 10 ** (-self.uniform(low, high, BATCH, 1, 1) / 10)

        # Not speech at all in one of twelve: noise, music, both.
        mute = self.happens(0.08, BATCH)
        speech = speech * (1 - mute)
        labels = torch.where(mute[:, :, 0] > 0, torch.zeros_like(labels), labels)
        noise = torch.where(self.happens(0.35, BATCH) > 0, below(5, 30), below(25, 65))
        heard = speech + self.noise(BATCH) * noise
        heard = heard + babble * below(8, 35) * self.happens(0.12, BATCH) * (1 - mute)
        heard = heard + music * below(6, 35) * torch.maximum(self.happens(0.15, BATCH), mute * self.happens(0.6, BATCH))
        levels = 10 * torch.log10(heard + 1e-9) + self.color(BATCH, 8)
        levels = levels + self.telephone()
        floor = 10 ** (self.uniform(-75, -45, BATCH, 1, 1) / 10)
        heard = 10 * torch.log10(10 ** (levels / 10) + floor * (0.3 + self.noise(BATCH)))
        return self.mask(normalize(heard).transpose(1, 2)).transpose(1, 2), labels

    def telephone(self) -> Tensor:
        """Gain in dB of a band limit [BATCH, 1, 40]: 300 to 3400 Hz, or a low-pass of a codec."""
        hz = self.centers_hz[None, None, :]
        low = torch.where(self.happens(0.5, BATCH) > 0, self.uniform(150, 350, BATCH, 1, 1), 0.0)
        high = self.uniform(3000, 7000, BATCH, 1, 1)
        outside = ((hz < low) | (hz > high)).float()
        return -45 * outside * self.happens(0.2, BATCH)


def band_centers_hz() -> list[float]:
    """Centers of pairs of the 80 Slaney bands between 55 and 7600 Hz."""

    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15.0 + float(np.log(hz / 1000)) * 27 / float(np.log(6.4))

    edges = np.linspace(to_mel(55.0), to_mel(7600.0), 82)
    hz = np.where(edges < 15, edges * 200 / 3, 1000 * np.exp((edges - 15) * np.log(6.4) / 27))
    return [float(x) for x in (hz[1:-1:2] + hz[2:-1:2]) / 2]


Arrays = dict[str, NDArray[Any]]


def load(files: list[Path], left_out: list[str]) -> tuple[Arrays, Arrays]:
    """Levels, labels and voices of all files to train with, music last, and those of the voices whose names contain one
    of `left_out`."""
    parts: dict[str, list[NDArray[Any]]] = {"levels": [], "labels": [], "voices": []}
    names: list[str] = []
    for path in files:
        with np.load(path, allow_pickle=False) as file:
            for name, listed in parts.items():
                listed.append(file[name] + (len(names) if name == "voices" else 0))
            names += file["names"].tolist()
    arrays = {name: np.concatenate(listed) for name, listed in parts.items()}
    held = [k for k, name in enumerate(names) if any(part in name for part in left_out)]
    print("left out:", [names[k] for k in held])
    out = np.isin(arrays["voices"], held)
    music = np.isin(arrays["voices"], [k for k, name in enumerate(names) if name == "music"])
    arrays["voices"][music] = len(names)
    order = np.concatenate([np.flatnonzero(~out & ~music), np.flatnonzero(music)])
    known, unknown = ({name: array[chosen] for name, array in arrays.items()} for chosen in (order, out))
    return known, unknown


def measure(network: Network, data: Arrays, device: str) -> None:
    """Print how well a voice is heard that the network was trained without, on the speech as it was recorded."""
    starts = range(0, len(data["labels"]) - 2000, 2000)
    heard, wanted = [], []
    for start in starts:
        levels = torch.from_numpy(data["levels"][start : start + 2000]).float().to(device)[None]
        heard.append(network(normalize(LOWEST_DB + STEP_DB * levels)).argmax(1)[0].cpu().numpy())
        wanted.append(data["labels"][start : start + 2000])
    found, labels = np.concatenate(heard), np.concatenate(wanted)
    shares = [float((found[labels == k] == k).mean()) if (labels == k).any() else float("nan") for k in range(CLASSES)]
    print("right by class, left out:", np.round(shares, 2), f"all {(found == labels).mean():.3f}")


def train(
    files: list[Path],
    result: Path,
    seconds: float,
    steps: int,
    seed: int,
    left_out: list[str],
    smoothing: float,
) -> None:
    """Stops at `steps`, or at `seconds` with the learning rate already low. smoothing: share of each label that goes to
    all classes, so that the network stays unsure enough for PocketSphinx to correct it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(seed)
    known, unknown = load(files, left_out)
    maker = Augmenter(known, device, seed)
    network = Network().to(device)
    print(f"{sum(p.numel() for p in network.parameters())} parameters, {len(maker.labels) / 6000:.0f} minutes")
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.02)
    weights = torch.tensor(WEIGHTS, device=device)
    began, step = time.monotonic(), 0
    while (share := max(step / steps, (time.monotonic() - began) / seconds)) < 1:
        rate = 2e-3 * min(1.0, (step + 1) / 200) * (0.5 + 0.5 * np.cos(np.pi * share)) + 1e-5
        for group in optimizer.param_groups:
            group["lr"] = rate
        with torch.no_grad():
            levels, labels = maker.batch()
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = network(levels)
        loss = F.cross_entropy(logits.float(), labels, weights, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(f"{step}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    network.eval()
    right, total = np.zeros(CLASSES), np.zeros(CLASSES)
    with torch.no_grad():
        for _ in range(10):
            levels, labels = maker.batch()
            found = network(levels).argmax(1)
            for k in range(CLASSES):
                right[k] += float(((found == labels) & (labels == k)).sum())
                total[k] += float((labels == k).sum())
    print("right by class, augmented:", np.round(right / total, 2), f"all {right.sum() / total.sum():.3f}")
    if len(unknown["labels"]) > 2000:
        with torch.no_grad():
            measure(network, unknown, device)
    np.savez_compressed(result, **network.weights())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the viseme network.")
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("prepare")
    first.add_argument("result", type=Path)
    first.add_argument("--minutes", type=float, default=90)
    first.add_argument("--seed", type=int, default=1)
    first.add_argument(
        "--voices", nargs="*", default=[], metavar="VOICE", help="parts of names of voices; default: all"
    )
    second = commands.add_parser("train")
    second.add_argument("data", type=Path, nargs="+")
    second.add_argument("result", type=Path)
    second.add_argument("--smoothing", type=float, default=0.0)
    second.add_argument("--seconds", type=float, default=270)
    second.add_argument("--steps", type=int, default=30000)
    second.add_argument("--seed", type=int, default=1)
    second.add_argument("--leave-out", nargs="*", default=[], metavar="VOICE", help="parts of names of voices")
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(arguments.result, arguments.minutes, arguments.seed, arguments.voices)
    else:
        train(
            arguments.data,
            arguments.result,
            arguments.seconds,
            arguments.steps,
            arguments.seed,
            arguments.leave_out,
            arguments.smoothing,
        )


if __name__ == "__main__":
    main()
