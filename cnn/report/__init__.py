"""Time and energy side by side: rows of measured, predicted and published runs, and the forms they are shown in."""
