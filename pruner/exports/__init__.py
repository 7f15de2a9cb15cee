"""Export folders: written, read back, certified and verified; the manifest that says what each holds."""
