"""Speech as numbers: waveform, mel spectrogram, mouth motion."""
