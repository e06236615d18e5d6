package ship

import (
	"math"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestSize(t *testing.T) {
	f := func(text string, want Size, back string) {
		t.Helper()
		var s Size
		if err := s.Set(text); err != nil || s != want || s.String() != back {
			t.Errorf("%q: %d %q, %v; want %d %q", text, s, s.String(), err, want, back)
		}
	}
	f("0", 0, "0")
	f("8MB", 8_000_000, "8MB")
	f("8000000", 8_000_000, "8MB")
	f("8 MB", 8_000_000, "8MB")
	f("7.5MiB", 7_864_320, "7864320")
	f("64KiB", 65536, "65536")
	f("1KB", 1000, "1KB")
	f("2GB", 2_000_000_000, "2GB")
	f("1GiB", 1<<30, "1073741824")
	f("10B", 10, "10")
	bad := func(text string) {
		t.Helper()
		s := Size(5)
		if err := s.Set(text); err == nil || !strings.Contains(err.Error(), "is not a size") || s != 5 {
			t.Errorf("%q: %d, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "MB", "-1", "8mb", "8M", "1e", "x", "NaN", "Inf", "-Inf", "2TiB", "99999999GB"} {
		bad(text)
	}
	if n := Size(math.MaxInt64); n.Type() != "size" {
		t.Error("type")
	}
}

func TestConfigValidate(t *testing.T) {
	f := func(args, want string) {
		t.Helper()
		cfg := DefaultConfig()
		fs := pflag.NewFlagSet("ship", pflag.ContinueOnError)
		cfg.Flags(fs)
		if err := fs.Parse(strings.Fields(args)); err != nil {
			t.Fatalf("%s: %v", args, err)
		}
		cfg.Files = fs.Args()
		cfg.Changed(fs)
		err := cfg.Validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	f("-t t", "")
	f("-t t -k key -p 3 -H a=b -H c= -H d --count 5 --null-value= f1 f2", "")
	f("-t t --max-record-bytes 1KB --grace 0 --ordering strict", "")
	f("--from-dead-letter f", "")
	f("-t t --from-dead-letter f -c 1", "")
	f("-t t --input records", "")
	f("", "which topic? give it with -t")
	f("-t a/b", `--topic: topic "a/b": only letters`)
	f("-t ..", "--topic: ")
	f("-t t --input csv", "--input=csv: must be lines or records")
	f("-t t --ordering topic", "--ordering=topic: must be none, key or strict")
	f("-t t --max-record-bytes 999", "--max-record-bytes=999: must be 1KB..1GB")
	f("-t t --max-record-bytes 1001MB", "--max-record-bytes=1001MB: must be 1KB..1GB")
	f("-t t -c -1", "--count=-1: must be 0 (all) or more")
	f("-t t -p -2", "--partition=-2: must be 0 or more")
	f("-t t --grace 61m", "--grace=1h1m0s: must be 0..1h")
	f("-t t --from-dead-letter f g", "--from-dead-letter takes no further files")
	f("-t t --from-dead-letter f --input records", "exclude each other")
	f("-t t --input records -k x", "every record is sent as it is")
	f("-t t --input records --null-value=", "every record is sent as it is")
	f("-t t --value-type avro", `--value-type: type "avro": must be auto, string, json or binary`)
	f("-t t --key-type x", `--key-type: type "x"`)
	f("-t t -k a -K :", "a record has one key")
	f("-t t -k a --key-field b", "a record has one key")
	f("-t t -k { --key-type json", "--key: ")
	f("-t t -H =x", "--header==x: a header needs a name")
	f("-t t --batch-bytes 1", "--batch-bytes=1: must be 1024..4194304")
	f("-t t --linger 1m", "--linger=1m0s: must be 0..10s")
	f("-t t --streams 65", "--streams=65: must be 1..64")
	f("-t t --in-flight 0", "--in-flight=0: must be 1..1000000")
	f("-t t --max-attempts 0", "--max-attempts=0: must be 1..1000")
	f("-t t --streams 0 -c -1", "--streams=0")
	f("-t t --streams 0 -c -1", "--count=-1")
}

func TestStrict(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Topic, cfg.Ordering = "t", "strict"
	if err := cfg.Validate(); err != nil || !cfg.Stream.Strict {
		t.Errorf("%+v, %v", cfg.Stream, err)
	}
}
