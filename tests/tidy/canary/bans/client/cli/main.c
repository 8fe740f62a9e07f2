int main(void)
{
    printf("a command line talks\n");
    exit(0);
}
