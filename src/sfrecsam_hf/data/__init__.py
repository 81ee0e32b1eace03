"""Folders, zips and Hub data sets of images with masks."""
