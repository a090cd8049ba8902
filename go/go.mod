module calotype

go 1.19
