"""Small templates, each for one rule of the language. The variables are beside them; `messages` is four turns."""

SNIPPET_VARIABLES = {
    "a": 7, "b": -3, "x": 2.5, "flag": True, "nil": None, "s": "Hello World", "u": "Größe ☕ 世界", "sp": "  a b\tc \n",
    "l": [3, 1, 2], "words": ["b", "A", "c", "a"], "e": [], "d": {"k": "v", "n": 1, "items": "own", "z": [1, {"q": None}]},
    "people": [{"name": "Ann", "age": 30, "tag": {"c": "r"}}, {"name": "bob", "age": 25, "tag": {"c": "g"}}, {"name": "Cy", "age": 30}],
    "html": "<a href='x'>&\"</a>", "text": "line one\nline two\n\n  line four\r\nfive",
}

EXPRESSIONS = """
1 + 2 * 3 - 4
(1 + 2) * 3
7 / 2
6 / 2
7 // 2
-7 // 2
7 // -2
7 % 3
-7 % 3
7 % -3
7.5 % 2
-7.5 % 2
7.5 // 2
-7.5 // 2
2 ** 10
2 ** -1
2 ** 3 ** 2
-2 ** 2
2.0 ** 0.5
1 / 0
1 % 0
1_000 + 0x1f + 0b101 + 0o17
1e3
1.5e-7
1e16
1e22
123456789.123
0.1 + 0.2
100000000000000000.0
1.0
-0.0
3 * 'ab'
'ab' * 3
'ab' * -1
[1, 2] * 2
[1] + [2, 3]
(1, 2) + (3,)
'a' + 1
1 + 'a'
'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1, 'x']
'a' 'b' "c"
'%s and %d and %r and %%' % ('x', 3, 'y')
'%s' % s
'%s %s' % (1,)
true + 1
not true
not not 0
not a == 7
1 < 2 < 3
1 < 3 < 2
1 < 2 == true
'a' < 'b'
'Z' < 'a'
[1, 2] < [1, 3]
1 < 'a'
1 == 1.0
1 == true
'1' == 1
none == none
none < 1
missing == other
missing == none
[1, 'a'] == [1, 'a']
(1, 2) == [1, 2]
{'a': 1, 'b': 2} == {'b': 2, 'a': 1}
'ell' in s
'' in s
'xyz' not in s
1 in [1, 2]
'k' in d
'v' in d
1 in 'abc'
1 in missing
missing in [1]
1 in none
not 1 in [1]
a if flag else b
a if not flag else b
a if false
(a if false) is defined
1 if 2 if 0 else 3 else 4
flag and a
e or 'empty'
nil or missing or 'x'
0 and missing.x
missing
missing.attr
missing['x']
missing + 1
missing ~ 'x'
missing|length
missing is defined
missing.a is defined
d.missing is defined
d.missing.deeper
d.missing
d['missing']
d.k
d['k']
d.items()|list
d['items']
d.n.foo
s.foo
none.foo
nil['x']
d.z[1].q
d.z[1]['q']
d.z.1
d.get('k')
d.get('nope')
d.get('nope', 5)
d.keys()|list
d.values()|list
d.update({'a': 1})
l.append(4)
l.index(1)
l.index(9)
[1, 1, 2].count(1)
l[0]
l[-1]
l[3]
l[-4]
l[1:]
l[:-1]
l[::-1]
l[::2]
l[5:]
l[-100:2]
l[2:0:-1]
l[::0]
l['a']
s[0]
s[-1]
s[0:5]
s[::-1]
u[3:7]
u[4]
u[::-1]
u[-2:]
(1, 2, 3)[1:]
(1,)
()
(1)
1, 2
[1, 'two', 3.0, none, true, missing, [4], (5,), {'k': 'it\\'s'}]
['it\\'s', "q\\"", 'both\\'"', 'tab\\t', 'é', '\\x00', '\\u200b', '\\n']
{'a': 1, 2: 'b', none: 3, true: 4}
{'a': 1, 'a': 2}
{}
[]
{'a': {'b': {'c': 1}}}.a.b.c
"\\x41\\u00e9\\101\\q\\
"
s|upper
s|lower
s|length
u|length
l|length
d|length
5|length
none|length
'hello wORLD'|capitalize
"hello wORLD (foo-bar) it's"|title
u|upper
u|lower
'ΑΒΓ'|lower
sp|trim
'xxhixx'|trim('x')
'xyhiyx'|trim('xy')
l|join
l|join(', ')
people|join(', ', attribute='name')
'abc'|join('-')
l|first
l|last
e|first
e|last
s|first
s|last
l|sort
l|sort(reverse=true)
words|sort
words|sort(case_sensitive=true)
words|sort(true)
people|sort(attribute='age')|map(attribute='name')|join(',')
people|sort(attribute='age', reverse=true)|map(attribute='name')|join(',')
people|sort(attribute='name')|map(attribute='name')|list
[1, 'a']|sort
words|unique|list
words|unique(true)|list
[1, 2, 1, 3, 2]|unique|list
l|reverse|list
s|reverse
l|list
s|list
d|list
d|dictsort
d|dictsort|first
{'B': 1, 'a': 2}|dictsort(true)
{'B': 2, 'a': 1}|dictsort(false, 'value')
{'B': 1, 'a': 2}|dictsort(reverse=true)
d|items|list
missing|items|list
l|select('odd')|list
l|reject('odd')|list
l|select('gt', 1)|list
[0, 1, none, '', 'a']|select|list
people|selectattr('tag')|map(attribute='name')|list
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list
people|selectattr('age', '==', 30)|list|length
people|rejectattr('age', 'eq', 30)|map(attribute='name')|list
people|selectattr('tag', 'defined')|list|length
people|selectattr('tag', 'undefined')|list|length
people|selectattr('age', 'in', [25, 26])|map(attribute='name')|list
people|map(attribute='tag.c', default='-')|list
people|map(attribute='tag.c')|list
people|map(attribute='nope', default='n/a')|list
words|map('upper')|list
words|map('replace', 'a', 'o')|list
l|map('string')|join('+')
people|selectattr('nope')|list
(people|selectattr('nope')) is defined
'yes' if people|selectattr('nope') else 'no'
messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join('|')
(messages|selectattr('role', 'equalto', 'user')|list)[-1].content
messages|map(attribute='role')|unique|join(',')
missing|default('d')
none|default('d')
none|default('d', true)
''|default('d', boolean=true)
missing|d
'a-b-c'|replace('-', '+')
'a-b-c'|replace('-', '+', 1)
'abc'|replace('', '.')
123|replace('2', 'x')
'3'|int
'3.7'|int
'x'|int
'x'|int(5)
' 42 '|int
'ff'|int(0, 16)
3.9|int
-3.9|int
true|int
none|int
missing|int
'3.5'|float
'x'|float
'x'|float(1.5)
3|float
2.5|round
3.5|round
2.675|round(2)
42.55|round
42|round
42.51|round(1, 'floor')
42.41|round(1, 'ceil')
-3|abs
-2.5|abs
l|sum
people|sum(attribute='age')
l|min
l|max
words|max
e|max
1|string
[1, 2]|string
html|safe
html|string
text|indent
text|indent(2, true)
text|indent(2, first=true, blank=true)
text|indent('> ')
d|nofilter
d|tojson
d|tojson(indent=2)
l|tojson
l|tojson(indent=4)
e|tojson(indent=4)
{}|tojson(indent=4)
people|tojson(separators=(',', ':'))
u|tojson
u|tojson(ensure_ascii=true)
'😀'|tojson(ensure_ascii=true)
html|tojson
'\\x00\\x1f\\x7f\\u2028"\\\\/'|tojson
{'b': 1, 'a': 2}|tojson(sort_keys=true)
{1: 'a', true: 'b', none: 'c', 2.5: 'd'}|tojson
[1.0, 1e20, 1.5e-7, -0.0, true, none]|tojson
(1, 2)|tojson
missing|tojson
s|tojson|tojson
-1|abs|string + '!'
-1|string
'a' ~ 'b'|upper
a is defined
a is number
x is number
true is number
'1' is number
a is integer
true is integer
x is integer
x is float
flag is boolean
1 is boolean
flag is true
1 is true
flag is false
false is false
nil is none
missing is none
s is string
l is string
d is mapping
l is mapping
l is sequence
d is sequence
s is sequence
5 is sequence
missing is sequence
l is iterable
s is iterable
5 is iterable
missing is iterable
none is iterable
a is odd
a is even
9 is divisibleby 3
9 is divisibleby(2)
1 is in [1, 2]
3 is not in [1, 2]
'a' is eq 'a'
1 is equalto 1.0
2 is gt 1
2 is lessthan 1
2 is ne 2
s is lower
'abc' is lower
'ABC' is upper
a is not none and a is defined
a is defined and b is defined or missing
range is callable
s is callable
s is notest
flag is sameas true
1 is sameas true
range(5)|list
range(2, 8, 3)|list
range(5, 0, -2)|list
range(0)|list
range(200000)|list
dict(a=1, b='x')
dict({'a': 1}, b=2)
s.split()
sp.split()
'a,b,,c'.split(',')
'a,b,c'.split(',', 1)
'a b  c'.split(' ')
'a b c d'.split(none, 2)
'a,b,c'.rsplit(',', 1)
'a b c d'.rsplit(maxsplit=1)
'a b c d'.rsplit()
'a<x>b<x>c'.split('<x>')[-1]
''.split(',')
''.split()
'abc'.split('')
sp.strip()
sp.lstrip()
sp.rstrip()
'xxhixx'.strip('x')
'xyhi'.lstrip('yx')
'hi\\n\\n'.rstrip('\\n')
s.startswith('Hell')
s.startswith('ello', 1)
s.startswith(('x', 'H'))
s.endswith('World')
s.endswith(('a', 'ld'))
s.replace('l', 'L')
s.replace('l', 'L', 2)
s.upper()
s.lower()
"they're bill's".title()
'aBC'.capitalize()
s.find('o')
s.find('o', 5)
s.find('zz')
s.rfind('o')
u.find('世')
s.index('W')
s.index('zz')
s.count('l')
', '.join(words)
', '.join(l)
'{} and {}'.format(1, 'x')
'{1} {0} {n}'.format('a', 'b', n=3)
'{{}}'.format()
'{0.k}'.format(d)
'{'.format()
'abc'.isalpha()
'123'.isdigit()
'a1'.isalnum()
' '.isspace()
'ABC'.isupper()
'abc'.islower()
text.splitlines()
text.splitlines(true)
'a=b=c'.partition('=')
'a=b=c'.rpartition('=')
'abc'.partition('x')
'prefix-x'.removeprefix('prefix-')
'x.txt'.removesuffix('.txt')
'7'.zfill(3)
s.nomethod()
s()
missing()
raise_exception('no ' ~ a)
namespace(a=1).a
namespace(a=1).b
namespace({'a': 1}, b=2).b
[1, 2, 3,]
{'a': 1,}
[[1, 2], [3]]|map('first')|list
[l|first, l|last]|sum
(l|sort)[0]
(s|upper).lower()
s|upper|lower|replace('hello', 'bye')|title
messages[0].role
messages[0]['content']
messages[-1].content
messages[1:]|length
messages|length
messages[::-1][0].content
messages[10].content
messages[0].content.split('')[0]
messages|first == messages[0]
messages|last == messages[0]
loop
loop.index
1 if
(1
[1
{'a' 1}
a b
1 +
'unclosed
s|
s is
a..b
$
"""

STATEMENTS = [
    "plain text", "", "\n", "a\n", "a\n\n", "{", "{ {", "{}", "a {{ a }} b", "{{a}}{{b}}", "{{ a }}\n{{ b }}\n",
    "{# c #}x", "x {# c #} y", "x\n{# c #}\ny", "  {# c #}\ny", "x {#- c -#} y", "{# {{ a }} {% if %} #}z", "{# a",
    "{% if flag %}\nyes\n{% endif %}\nafter", "  {% if flag %}\n  yes\n  {% endif %}\nafter", "x  {% if flag %}y{% endif %}  z",
    "a\n  {%+ if flag %}\nb\n  {%+ endif %}\nc", "a\n  {%- if flag -%}\n  b\n  {%- endif -%}\n  c", "a {{- ' b ' -}} c", "a\n\n{{- 1 }}\n\n{{ 2 -}}\n\nb",
    "{% if flag +%}\nx{% endif +%}\ny", "\t {% if flag %}x{% endif %}", "a\r\nb\rc\n{% if flag %}\r\nx{% endif %}", "{{ 'a\r\nb' }}",
    "{% if a == 7 %}1{% elif a == 8 %}2{% else %}3{% endif %}", "{% if a == 8 %}1{% elif a == 7 %}2{% else %}3{% endif %}",
    "{% if a == 8 %}1{% elif a == 9 %}2{% else %}3{% endif %}", "{% if not flag %}x{% endif %}y", "{% if e %}x{% else %}y{% endif %}",
    "{% if flag %}{% if nil %}x{% else %}y{% endif %}{% endif %}", "{% if (a, b) %}t{% endif %}",
    "{% for i in l %}{{ i }},{% endfor %}", "{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for i in l %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}", "{% for i in l %}{{ loop.previtem is defined }} {{ loop.nextitem is defined }};{% endfor %}",
    "{% for i in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for i in [1,1,2,2,1] %}{{ loop.changed(i) }} {% endfor %}",
    "{% for i in e %}x{% else %}none{% endfor %}", "{% for i in l %}x{% else %}none{% endfor %}", "{% for i in missing %}x{% else %}none{% endfor %}",
    "{% for i in none %}x{% endfor %}", "{% for i in 5 %}x{% endfor %}", "{% for c in u %}{{ c }}.{% endfor %}", "{% for k in d %}{{ k }} {% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|items %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for a, b in [[1, 2], [3, 4]] %}{{ a }}{{ b }} {% endfor %}{{ a }}", "{% for a, b in [[1, 2, 3]] %}{{ a }}{% endfor %}", "{% for (a, b) in [(1, 2)] %}{{ a + b }}{% endfor %}",
    "{% for i in l if i > 1 %}{{ i }}:{{ loop.index }}/{{ loop.length }} {% endfor %}", "{% for i in l if i > 10 %}x{% else %}none{% endfor %}", "{% for m in messages if m.role == 'user' %}{{ m.content }};{% endfor %}",
    "{% for i in range(10) %}{% if i == 3 %}{% continue %}{% endif %}{% if i == 6 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in l %}{% for j in l %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}", "{% for i in l %}{% for j in 'ab' %}{{ loop.index }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}{{ loop.index }}|{% endfor %}",
    "{% for i in l %}{% set outer = loop %}{% for j in 'ab' %}{{ outer.index }}{{ loop.index }} {% endfor %}{% endfor %}", "{% break %}", "{% for i in l recursive %}x{% endfor %}x{{ 1 + }}",
    "{% for i in l %}\n{{ i }}\n{% endfor %}\n", "{%- for i in l %}\n{{ i }}\n{%- endfor %}\n", "{% for i in l -%}\n  {{ i }}\n{%- endfor %}",
    "{% for i in l %}{{ i }}", "{% endfor %}", "{% if flag %}x", "{% else %}", "{% unknown %}", "{{ a ", "{% if", "{{ }}", "{% set %}",
    "{% set q = 1 %}{{ q }}", "{% set q %}block {{ a }}{% endset %}[{{ q }}]", "{% set q | upper %}block{% endset %}{{ q }}", "{% set q | replace('b', 'c') | upper %}abc{% endset %}{{ q }}", "{% set p, q = 1, 2 %}{{ p }}{{ q }}", "{% set q = 1, 2 %}{{ q }}",
    "{% set q = 1 %}{% for i in l %}{% set q = i %}{% endfor %}{{ q }}", "{% set q = 0 %}{% for i in l %}{% set q = q + i %}{{ q }} {% endfor %}{{ q }}", "{% for i in l %}{% if loop.first %}{% set q = 'f' %}{% endif %}{{ q }}-{% endfor %}",
    "{% set q = 1 %}{% if flag %}{% set q = 2 %}{% endif %}{{ q }}", "{% set ns = namespace(n=0) %}{% for i in l %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b is defined }}", "{% set d.k = 1 %}", "{% set nope.k = 1 %}",
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'assistant' and not ns.found %}{% set ns.found = true %}{{ m.content }}{% endif %}{% endfor %}", "{% set ns = namespace(l=[]) %}{% for i in l %}{% set ns.l = ns.l + [i * 2] %}{% endfor %}{{ ns.l }}",
    "{% macro m(x, y=2) %}{{ x }}-{{ y }}{% endmacro %}{{ m(1) }} {{ m(1, 3) }} {{ m(y=5, x=4) }} {{ m() }}", "{% macro m(x) %}{{ x }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, k=3) }}", "{% macro m() %}{{ s }}{% endmacro %}{{ m() }}", "{% macro m(x) %}{{ y }}{% endmacro %}{% set y = 3 %}{{ m(1) }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro m(x, y=x) %}{{ x }}{{ y }}{% endmacro %}{{ m(1) }}", "{% macro m() %}  x  {% endmacro %}[{{ m()|trim }}]", "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(1)|length }}{{ m('a') + 'b' }}{{ m(missing) }}",
    "{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}in{{ a }}{% endcall %}", "{% macro w() %}{% for i in l %}<{{ caller(i) }}>{% endfor %}{% endmacro %}{% call(x) w() %}{{ x * 2 }}{% endcall %}", "{% macro w(p) %}{{ p }}{% if caller %}{{ caller() }}{% endif %}{% endmacro %}{{ w(1) }}{% call w(2) %}c{% endcall %}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}",
    "{% filter upper %}abc {{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aXa{% endfilter %}", "{% with q = 1, r = 2 %}{{ q + r }}{% endwith %}{{ q }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}", "{% set q = 5 %}{% with q = q + 1 %}{{ q }}{% endwith %}{{ q }}",
    "{% raw %}{{ a }} {% if %}{% endraw %}x", "{%- raw -%}  {{ a }}  {%- endraw -%}  x", "{% raw %}\nx\n{% endraw %}\ny", "  {% raw %}x{% endraw %}", "{% raw %}x", "{%raw%}{%endraw%}", "{% raw %}\n  {% endraw %}z",
    "x{% generation %}abc{% endgeneration %}y", "{% for m in messages %}{{ m.role }}:{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}", "{% generation %}\n  é{{ u }}\n{% endgeneration %}\nz", "{% for m in messages %}{% if m.role == 'assistant' %}{%- generation -%} {{ m.content }} {%- endgeneration -%}{% endif %}{% endfor %}", "{% generation %}{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}", "{% generation %}x",
    "{{ '{{ x }}' }}", "{{ '%}' }}", "{% if '%}' %}x{% endif %}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{ {'a': {}} }}", "{{ {} }}}", "{{{'a': 1}.a}}", "{{ (1) }}", "{{- a -}}", "{{-a-}}", "{{ a-}}\n x", "{{ a -1 }}", "{{ a-1 }}", "{{ 5 -}} x",
    "{% set x = 'a' if flag else 'b' %}{{ x }}", "{% set m = messages[0] %}{{ m.role }}{{ m['content'] }}", "{% set msgs = messages[1:] %}{% for m in msgs %}{{ loop.index }}{{ m.role[0] }}{% endfor %}", "{%- set q = messages|length -%}\n{{ q }}", "{% set g = l|map('string') %}{{ g|join }}{{ g|join }}", "{% set g = l|select('odd') %}{{ g|first }}{{ g|list }}",
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{{ message.content }}{% endfor %}", "{{ raise_exception('stop') }}", "{% if false %}{{ raise_exception('stop') }}{% endif %}ok", "{% if false %}{{ 1 / 0 }}{% endif %}ok",
    "{{ messages }}", "{{ d }}", "{{ people|tojson }}", "{% for p in people %}{{ p.name }}{% if p.tag %}{{ p.tag.c }}{% endif %}{{ ', ' if not loop.last }}{% endfor %}", "{{ 'a' if flag }}{{ 'b' if not flag }}", "{% set a = a + 1 %}{{ a }}", "{% if true %}{% set z1 = 1 %}{% endif %}{{ z1 }}",
    "{% for i in l %}{% set q = i %}{% endfor %}{{ q is defined }}", "{% set q %}{% set r = 1 %}{{ r }}{% endset %}{{ q }}{{ r is defined }}", "{% for i in 'ab' %}{{ i }}{% endfor %}{{ i is defined }}", "{% for i in l %}{{ i }}{% endfor %}{{ loop is defined }}",
]

SNIPPETS = ["{{ " + line + " }}" for line in EXPRESSIONS.replace("\\\n\"", "\\<nl>\"").strip("\n").split("\n")]
SNIPPETS = [text.replace("\\<nl>", "\\\n") for text in SNIPPETS] + STATEMENTS
