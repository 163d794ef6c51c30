"""What the notebooks use beside the library: figures, widgets and checks of exercises."""
