"""The verbs of the command line: functions of parsed arguments. What may be typed is in `hb.cli`."""
