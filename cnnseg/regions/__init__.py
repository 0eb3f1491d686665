"""Why a network that segments says what it says of a region: explanations, their pictures, and the test of them."""
