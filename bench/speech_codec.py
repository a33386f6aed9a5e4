"""What the choice of the AAC encoder's search rests on: `python -m bench.speech_codec SPEECH [--repeat N]`.

Encodes the speech at the rate that results have, in its own channels and as one, with both of FFmpeg's quantizer
searches, and prints CPU time, size, and how far below the speech the error lies: in all, and by band.
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from retalking_core.media.limits import DEFAULT_LIMITS
from retalking_core.media.sound import decode_sound
from retalking_core.media.speech import read_speech
from retalking_core.media.writer import BITS_PER_SAMPLE, BLOCK

CODERS = ("twoloop", "fast")
BANDS_HZ = ((0, 1000), (1000, 4000), (4000, 8000), (8000, 16000))
WINDOW = 2048


def main() -> None:
    """Print one row for each number of channels and each coder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("speech", type=Path)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with read_speech(arguments.speech, DEFAULT_LIMITS) as spoken:
        rate_hz, channels = spoken.sound.rate_hz, spoken.sound.channels
    print(f"{arguments.speech.name}: {spoken.duration_s:.1f} s at {rate_hz} Hz")
    bands = "".join(f"{f'to {high} Hz':>12}" for _, high in BANDS_HZ)
    print(f"{'layout':<9}{'coder':<10}{'cpu ms':>8}{'kB':>7}{'all':>12}{bands}   (dB below the speech)")
    for layout in ("stereo", "mono")[channels == 1 :]:
        samples = read(arguments.speech, layout, rate_hz)
        for coder in CODERS:
            runs = [encode(samples, layout, rate_hz, coder) for _ in range(arguments.repeat)]
            cpu_ms, (packets, header) = min(run[0] for run in runs), runs[0][1]
            error = decode(packets, header)[:, BLOCK:][:, : samples.shape[1]] - samples
            ratios = [power(samples, rate_hz, band) / power(error, rate_hz, band) for band in ((0, rate_hz), *BANDS_HZ)]
            levels = "".join(f"{10 * np.log10(ratio):>12.1f}" for ratio in ratios)
            print(f"{layout:<9}{coder:<10}{cpu_ms:>8.0f}{sum(p.size for p in packets) / 1000:>7.0f}{levels}")


def read(speech: Path, layout: str, rate_hz: int) -> NDArray[np.float32]:
    """Samples f32 [channels, n], whole blocks."""
    resampler = AudioResampler(format="fltp", layout=layout, rate=rate_hz)
    pieces = [p.to_ndarray() for frame in decode_sound(speech, DEFAULT_LIMITS) for p in resampler.resample(frame)]
    samples = np.concatenate(pieces, axis=1)
    return samples[:, : samples.shape[1] // BLOCK * BLOCK]


def encode(
    samples: NDArray[np.float32], layout: str, rate_hz: int, coder: str
) -> tuple[float, tuple[list[av.Packet], bytes]]:
    """CPU ms, and the packets with what a decoder needs to know first."""
    context = av.CodecContext.create("aac", "w")
    context.sample_rate, context.layout, context.format = rate_hz, layout, "fltp"
    context.bit_rate = BITS_PER_SAMPLE * rate_hz * len(samples)
    context.time_base, context.options = Fraction(1, rate_hz), {"aac_coder": coder}
    began, packets = time.process_time(), []
    for start in range(0, samples.shape[1], BLOCK):
        block = np.ascontiguousarray(samples[:, start : start + BLOCK])
        frame = AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate_hz, start
        packets += context.encode(frame)
    packets += context.encode(None)
    return 1000 * (time.process_time() - began), (packets, context.extradata)


def decode(packets: list[av.Packet], header: bytes) -> NDArray[np.float32]:
    context = av.CodecContext.create("aac", "r")
    context.extradata = header
    return np.concatenate([f.to_ndarray() for packet in [*packets, None] for f in context.decode(packet)], axis=1)


def power(samples: NDArray[np.float32], rate_hz: int, band_hz: tuple[int, int]) -> float:
    """Of the first channel inside a band."""
    windows = samples[0, : samples.shape[1] // WINDOW * WINDOW].reshape(-1, WINDOW) * np.hanning(WINDOW)
    spectrum = np.abs(np.fft.rfft(windows, axis=1)) ** 2
    places_hz = np.fft.rfftfreq(WINDOW, 1 / rate_hz)
    return float(spectrum[:, (places_hz >= band_hz[0]) & (places_hz < band_hz[1])].sum())


if __name__ == "__main__":
    main()
