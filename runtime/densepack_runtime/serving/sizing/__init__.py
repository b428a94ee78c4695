"""How many servers a load needs: batch times measured on this host, and the server's own line simulated over them."""
