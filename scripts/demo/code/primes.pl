#!/usr/bin/env perl
# Counts the primes below a number: the demo's task. Says how far it is, as long work should.
use strict;
use warnings;

my $limit = shift // 100_000;
$| = 1;

my $composite = '';
my $primes    = 0;
for my $number ( 2 .. $limit - 1 ) {
    if ( !vec( $composite, $number, 1 ) ) {
        $primes++;
        for ( my $multiple = $number * $number ; $multiple < $limit ; $multiple += $number ) {
            vec( $composite, $multiple, 1 ) = 1;
        }
    }
    print "  $primes primes below ", $number + 1, "\n" if ( $number + 1 ) % ( $limit / 4 ) == 0 && $number + 1 < $limit;
}
print "$primes primes below $limit\n";
