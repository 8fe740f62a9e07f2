typedef int kl_node_unit;
