"""The ground floor of relseg: images, labels, files and numbers. It knows no model."""
