"""What makes the documentation: its pictures, and the pages that come from the code. No part of the product."""
