"""Small real trainings by name, sick and healthy; what detectors are recorded from and tested on."""
