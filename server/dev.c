typedef int kl_dev_unit;
