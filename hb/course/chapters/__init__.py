"""One module for each notebook: figures, the widget, and the checks of its exercises, registered on import."""
