"""The tests of explanations, of any model and any explainer: perturbation test and segmentation test.

Imports nothing by itself, as command lines read their settings from here. From Python: `wsss.perturbation_test`,
`wsss.segmentation_test` (`wsss.explanation_tests.api`).
"""
