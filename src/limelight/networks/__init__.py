"""Network architectures that limelight carries itself."""
