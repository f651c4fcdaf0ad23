"""What every layer needs and no model does: errors, files, configuration, the run directory, the machine."""
