module examples

go 1.19

require calotype v0.1.0

replace calotype => ../../go
