"""What stays of a pruned LSTM takes over from what goes: fitted to calibration inputs, kept only where it helps."""
