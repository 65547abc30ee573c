"""Makes test/fixtures/templates/{snippets,chats}.json: templates with data, and what transformers 5.23 renders of them.

python3 test/tokenizer/templates.py   (pip install transformers==5.23.0 jinja2==3.1.6)

An expected text of null stands for an error. Nothing here knows of this engine.
"""
import copy
import json
import random
import pathlib
from transformers.utils.chat_template_utils import _compile_jinja_template, render_jinja_template

OUT = pathlib.Path(__file__).parent.parent / "fixtures" / "templates"
VARIABLES = json.loads(r"""
{
  "s": "Hello, World", "e": "", "u": "Grüße 😀 ﬁn ẞ", "n": "a\nb\r\nc\n\nd", "b": "  x y\tz  ", "t": "<think>\nadd\n</think>\n\n4",
  "q": "it's \"quoted\" \\ back", "num": "42", "f": 2.0, "g": 0.1, "h": 1e22, "k": 1.5e-7, "i": 7, "z": 0, "neg": -3,
  "big": 12345678901234567890, "yes": true, "no": false, "nil": null, "l": [3, 1, 2], "m": ["b", "A", "c", "a"],
  "mixed": [1, "two", 3.0, null, true, [4], {"k": 5}], "el": [], "ed": {},
  "d": {"b": 1, "a": [1, 2.0, "x"], "10": null, "2": {"n": "é"}, "items": 5}, "tools": [{"type": "function", "function": {"name": "get_weather", "description": "Wetter für \"Städte\" <b>", "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1e5}}, "required": ["city"]}}}],
  "users": [{"name": "Bob", "age": 30, "tags": ["x"]}, {"name": "alice", "age": 25, "tags": []}, {"name": "Carl", "age": 30}],
  "pairs": [["a", 1], ["b", 2]]
}
""")

SNIPPETS = r"""
{{ none }} {{ None }} {{ true }} {{ False }} {{ 1.0 }} {{ 1e5 }} {{ 1_000 }} {{ 0x1F }} {{ 0b11 }} {{ 0o17 }} {{ 1e16 }} {{ 1.5e300 }}
{{ l }} {{ d }} {{ mixed }} {{ (1,) }} {{ () }} {{ {} }} {{ [] }} {{ {'a': none, 1: 2.5, true: 'x'} }}
{{ s ~ 1 ~ none ~ true ~ 2.0 ~ l }}|{{ missing }}|{{ missing ~ 'x' }}
{{ missing.x }}
{{ d.missing.x }}
{{ d.missing }}|{{ d['missing'] }}|{{ nil.x }}|{{ nil['x'] }}|{{ s.x }}|{{ i.x }}|{{ l.x }}|{{ l['x'] }}
{{ q }}|{{ [q] }}|{{ [u, n, b] }}|{{ ['\x00\x7f\u200b\ufeff\ud7ff'] }}
{{ d.items }}
{{ d.items() }}|{{ d.keys() }}|{{ d.values() }}|{{ d['items'] }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in d %}{{ k }},{% endfor %}{% for c in u %}[{{ c }}]{% endfor %}
{{ d.get('b') }}|{{ d.get('zz') }}|{{ d.get('zz', 'def') }}|{{ d.get('10', 'def') }}
{{ u|length }} {{ s|count }} {{ l|length }} {{ d|length }} {{ missing|length }} {{ u[5] }} {{ u[6] }} {{ u[-1] }} {{ u[5:7] }} {{ u[::-1] }} {{ u[::2] }}
{{ i|length }}
{{ s[0] }}{{ s[-1] }}{{ s[99] }}|{{ s[:5] }}|{{ s[-5:] }}|{{ s[::2] }}|{{ s[10:2:-3] }}|{{ l[::-1] }}|{{ l[1:] }}|{{ l[-2:-1] }}|{{ (1,2,3)[1:] }}
{{ l[::0] }}
{{ s.split() }}{{ s.split(', ') }}{{ b.split() }}{{ b.split(' ') }}{{ n.split('\n', 1) }}{{ b.split(none, 1) }}{{ s.rsplit('o', 1) }}{{ b.rsplit(maxsplit=1) }}{{ n.splitlines() }}{{ n.splitlines(true) }}
{{ s.split('') }}
{{ t.split('</think>')[-1].lstrip('\n') }}|{{ t.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') }}
{{ '<think>' in t }}{{ 'x' not in t }}{{ 3 in l }}{{ 'b' in d }}{{ 1 in d }}{{ 'a' in missing }}
{{ 1 in s }}
{{ none in l }}{{ none in mixed }}{{ [4] in mixed }}{{ missing in mixed }}
{{ s.strip('Hd') }}|{{ b.strip() }}|{{ b.lstrip() }}|{{ b.rstrip() }}|{{ '\x1cx\x1f\x85\ufeff'.strip()|length }}|{{ s|trim('Hd') }}|{{ b|trim }}
{{ s.startswith('He') }}{{ s.startswith(('x', 'He')) }}{{ s.endswith('d') }}{{ s.startswith('l', 2) }}{{ s.startswith('l', 2, 3) }}{{ s.endswith(('a','b')) }}
{{ s.startswith(['x']) }}
{{ s.replace('l', 'L') }}|{{ s.replace('l', 'L', 1) }}|{{ s|replace('l', 'L') }}|{{ s|replace('l', 'L', 2) }}|{{ s.replace('', '-') }}|{{ s.replace('', '-', 3) }}|{{ e.replace('', 'x') }}|{{ 5|replace(5, 6) }}
{{ s.find('o') }} {{ s.find('zz') }} {{ s.rfind('o') }} {{ s.index('W') }} {{ s.count('l') }} {{ s.count('') }} {{ u.find('ﬁ') }} {{ s.find('o', 5) }} {{ s.find('o', -3) }}
{{ s.index('zz') }}
{{ s.upper() }}{{ s.lower() }}{{ s.title() }}{{ s.capitalize() }}{{ s.swapcase() }}{{ u.upper() }}{{ u.lower() }}{{ u.title() }}{{ "they're bill's".title() }}{{ "hello wORLD-foo (bar)"|title }}{{ 'ǆ ß ŉ'|capitalize }}
{{ u|upper }}{{ u|lower }}{{ none|upper }}{{ 5|lower }}{{ missing|upper }}{{ e|capitalize }}
{{ ', '.join(m) }}|{{ m|join }}|{{ m|join(', ') }}|{{ l|join('-') }}|{{ users|join(', ', attribute='name') }}|{{ s|join('.') }}|{{ d|join(',') }}|{{ missing|join }}|{{ mixed|join('/') }}
{{ ', '.join(l) }}
{{ s.partition(', ') }}{{ s.rpartition('o') }}{{ s.partition('zz') }}{{ s.rpartition('zz') }}{{ s.removeprefix('Hello') }}{{ s.removesuffix('World') }}{{ s.removeprefix('x') }}
{{ '42'.zfill(5) }}{{ '-42'.zfill(5) }}{{ 'x'.center(4, '*') }}{{ 'xy'.center(5, '*') }}{{ 'x'.ljust(3, '.') }}{{ 'x'.rjust(3) }}{{ 'abc'|center(6) }}|{{ 'a\tb'.expandtabs(4) }}
{{ num.isdigit() }}{{ 'x1'.isalnum() }}{{ 'x'.isalpha() }}{{ ' '.isspace() }}{{ ''.isdigit() }}{{ 'A'.isupper() }}{{ 'a1'.islower() }}{{ 'Ab'.istitle() }}{{ '²'.isdigit() }}{{ '²'.isdecimal() }}{{ '½'.isnumeric() }}{{ 'é'.isascii() }}{{ 'a b'.isidentifier() }}{{ '\n'.isprintable() }}
{{ '%s-%d-%05.2f-%x-%r-%%' % ('a', 7, 3.14159, 255, 'q') }}|{{ '%s' % 5 }}|{{ '%s' % none }}|{{ '%s %s' % ('a', l) }}|{{ '%(a)s' % {'a': 1} }}|{{ '%5s|%-5s|%+d|% d' % ('a','b',3,4) }}|{{ '%e %g %G' % (12345.678, 0.00001, 1e20) }}|{{ '%o %X %#x %c' % (8, 255, 255, 'z') }}|{{ '%.3s' % 'abcdef' }}|{{ '%*d' % (5, 42) }}
{{ '%s' % (1, 2) }}
{{ '%d' % 'x' }}
{{ '%d' % 3.99 }}|{{ '%s' % [1,2] }}|{{ 'x' % [] }}|{{ '%s' % missing }}
{{ 'x' % 'a' }}
{{ "%s, %s!"|format("Hello", "World") }}|{{ "%(x)s"|format(x=3) }}|{{ '{} {}'.format('a', 1) }}|{{ '{1}{0}{1}'.format('a','b') }}|{{ '{x:>5}|{y:05.1f}|{z!r}'.format(x='r', y=2.25, z='q') }}|{{ '{0[b]} {1.b}'.format(d, d) }}|{{ '{:,}'.format(1234567) }}|{{ '{:x}|{:#b}|{:+}|{:^7}|{:*<4}'.format(255, 5, 3, 'mid', 'ab') }}|{{ '{{}}'.format() }}|{{ '{:.3}'.format('abcdef') }}|{{ '{:e}|{:g}|{:%}'.format(1234.5, 0.0001, 0.25) }}|{{ '{:>{w}}'.format('a', w=4) }}|{{ '{:08,}|{:_}'.format(1234567, 1234567) }}|{{ '{}'.format(none) }}|{{ '{:5}|{:<5}'.format(true, 3) }}|{{ '{:.2f}|{:.0f}|{:.0f}'.format(0.125, 0.5, 1.5) }}
{{ '{} {1}'.format(1, 2) }}
{{ '{:d}'.format('x') }}
{{ 'ab' * 3 }}|{{ 3 * 'ab' }}|{{ l * 2 }}|{{ 2 * [0] }}|{{ 'x' * 0 }}|{{ 'x' * -1 }}|{{ 'x' * true }}|{{ (1,) * 2 }}
{{ 'x' * 2.0 }}
{{ l + [9] }}|{{ (1,) + (2,) }}|{{ s + '!' }}|{{ 1 + true }}|{{ f + 1 }}|{{ 'a' 'b' }}
{{ 'a' + 1 }}
{{ [1] + (2,) }}
{{ missing + 1 }}
{{ 7 / 2 }} {{ 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ 2 ** 100 }} {{ big + 1 }} {{ big * big }} {{ big // 7 }} {{ big % 1000 }} {{ -big }} {{ +i }} {{ -f }} {{ 0.1 + 0.2 }} {{ 1e308 * 10 }} {{ 5 - -3 }}
{{ 1 / 0 }}
{{ 1 % 0 }}
{{ f }} {{ g }} {{ h }} {{ k }} {{ 123456789.123 }} {{ 1e15 }} {{ 123456789012345678.0 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }} {{ 1e-10 }} {{ 100000.0 }}
{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 1 == 1.0 }}{{ true == 1 }}{{ '1' == 1 }}{{ [1,2] == [1,2] }}{{ (1,2) == [1,2] }}{{ d == d }}{{ none == none }}{{ 'a' < 'b' }}{{ [1,2] < [1,3] }}{{ 'Z' < 'a' }}{{ missing == missing2 }}{{ missing == none }}{{ 1 != 2 }}{{ 2 >= 2 <= 3 }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ not 1 }}{{ not missing }}{{ not [] }}{{ 1 and 0 }}{{ 0 or 'x' }}{{ '' or [] }}{{ [] and 1 }}{{ not not 3 }}{{ none or missing }}
{{ 'a' if yes else 'b' }}{{ 'a' if no }}{{ 'a' if no else 'b' if no else 'c' }}|{{ ('x' if no) is defined }}
{{ ('x' if no).y }}
{{ missing is defined }}{{ missing is undefined }}{{ d.b is defined }}{{ nil is none }}{{ nil is defined }}{{ s is string }}{{ i is number }}{{ yes is number }}{{ f is float }}{{ i is integer }}{{ yes is integer }}{{ yes is boolean }}{{ d is mapping }}{{ l is mapping }}{{ l is iterable }}{{ s is iterable }}{{ i is iterable }}{{ l is sequence }}{{ d is sequence }}{{ missing is iterable }}{{ missing is sequence }}{{ range is callable }}{{ s is callable }}{{ i is odd }}{{ i is even }}{{ i is divisibleby 7 }}{{ i is divisibleby(2) }}{{ s is lower }}{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ yes is true }}{{ no is false }}{{ 1 is true }}{{ i is eq 7 }}{{ i is ne(7) }}{{ i is gt 3 }}{{ i is lt 3 }}{{ i is ge 7 }}{{ i is le 7 }}{{ 1 is in l }}{{ nil is sameas none }}{{ yes is sameas true }}{{ i is not none }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ 'nope' is filter }}{{ i is equalto 7 }}{{ 3 is not in [1] }}
{{ 'x' is odd }}
{{ 5 is nope }}
{{ 5|nope }}
{% if false %}{{ 5|nope }}{% endif %}ok
{{ 5|nope if false else 'ok' }}
{% if false %}{% for x in l %}{{ x|nope }}{% endfor %}{% endif %}ok
{{ l|sum }} {{ users|sum(attribute='age') }} {{ [1.5, 2]|sum }} {{ el|sum }} {{ l|sum(start=10) }} {{ [[1],[2]]|sum(start=[]) }}
{{ m|sum }}
{{ l|min }} {{ l|max }} {{ m|min }} {{ m|max }} {{ el|min }} {{ users|max(attribute='age') }} {{ m|max(case_sensitive=true) }}
{{ mixed|max }}
{{ l|first }} {{ l|last }} {{ el|first }}|{{ el|last }}|{{ s|first }} {{ s|last }} {{ d|first }} {{ missing|first }}|{{ range(3)|last }}
{{ l|sort }} {{ m|sort }} {{ m|sort(case_sensitive=true) }} {{ l|sort(reverse=true) }} {{ users|sort(attribute='age,name')|map(attribute='name')|list }} {{ d|sort }} {{ users|sort(attribute='age', reverse=true)|map(attribute='name')|join(',') }}
{{ mixed|sort }}
{{ l|reverse|list }} {{ s|reverse }} {{ u|reverse }} {{ d|reverse|list }}
{{ m|unique|list }} {{ ['a','A','b']|unique|list }} {{ ['a','A']|unique(true)|list }} {{ users|unique(attribute='age')|map(attribute='name')|list }} {{ [1, 1.0, true]|unique|list }}
{{ range(7)|batch(3)|list }} {{ range(7)|batch(3, 'x')|list }} {{ range(7)|slice(3)|list }} {{ range(7)|slice(3, 'x')|list }}
{{ d|dictsort }} {{ {'b':1,'A':2,'c':0}|dictsort }} {{ {'b':1,'A':2}|dictsort(true) }} {{ {'b':1,'A':2}|dictsort(by='value') }} {{ {'b':1,'A':2}|dictsort(reverse=true) }}
{{ d|dictsort(by='x') }}
{{ users|groupby('age') }}{% for a, us in users|groupby('age') %}{{ a }}:{{ us|map(attribute='name')|join }};{% endfor %}{% for g in ['a','B','A']|map('upper')|groupby(0) %}{{ g.grouper }}{{ g.list }}{% endfor %}
{{ users|map(attribute='name')|list }} {{ users|map(attribute='tags', default='-')|list }} {{ m|map('upper')|list }} {{ m|map('replace', 'b', 'X')|list }} {{ pairs|map(attribute=0)|list }} {{ pairs|map('first')|join }} {{ users|map(attribute='tags.0')|list }}
{{ l|select('gt', 1)|list }} {{ l|select|list }} {{ l|reject('odd')|list }} {{ l|reject('eq', 1)|list }} {{ mixed|select('string')|list }} {{ users|selectattr('tags')|map(attribute='name')|list }} {{ users|selectattr('age', 'equalto', 30)|list|length }} {{ users|rejectattr('tags')|map(attribute='name')|list }} {{ users|selectattr('tags', 'defined')|map(attribute='name')|list }} {{ users|rejectattr('age', 'lt', 30)|map(attribute='name')|list }} {{ users|selectattr('name', 'in', ['Bob'])|list }}
{{ l|select('gt', 1)|length }}
{% set g = l|select('gt', 1) %}{% for x in g %}{{ x }}{% endfor %}|{% for x in g %}{{ x }}{% endfor %}|{% if l|select('gt', 99) %}truthy{% endif %}{{ (l|select('gt', 1))[0] }}
{{ i|default('x') }} {{ missing|default('x') }} {{ e|default('x') }}|{{ e|default('x', true) }} {{ nil|default('x') }} {{ nil|d('x', boolean=true) }} {{ missing.y|default('x') }}
{{ d.zz.y|default('x') }}
{{ '3'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ '3.9'|int }} {{ 3.9|int }} {{ -3.9|int }} {{ 'ff'|int(base=16) }} {{ '0x1f'|int(0, 16) }} {{ '0b11'|int(base=0) }} {{ ' 12 '|int }} {{ '1_000'|int }} {{ none|int }} {{ l|int }} {{ true|int }} {{ '1e3'|int }} {{ 'inf'|int }} {{ big|int }}
{{ '3.5'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ 3|float }} {{ '1e-3'|float }} {{ 'nan'|float }} {{ 'inf'|float }} {{ none|float }} {{ '.5'|float }} {{ '5.'|float }} {{ '1_0.0'|float }}
{{ missing|int }}
{{ 42.55|round }} {{ 42.55|round(1) }} {{ 42.55|round(1, 'floor') }} {{ 42.51|round(1, 'ceil') }} {{ 5|round }} {{ 2.5|round }} {{ 3.5|round }} {{ 1234|round(-2) }} {{ 1250|round(-2) }} {{ 1250.0|round(-2) }} {{ 0.125|round(2) }} {{ -2.5|round }} {{ 5|round(1,'floor') }} {{ 2.675|round(2) }}
{{ -5|abs }} {{ 5.5|abs }} {{ neg|abs }} {{ true|abs }}
{{ 'x'|abs }}
{{ 'foo bar'|wordcount }} {{ u|wordcount }} {{ n|wordcount }} {{ "it's a-b"|wordcount }}
{{ n|indent }}|{{ n|indent(2, true) }}|{{ n|indent(2, blank=true) }}|{{ n|indent('>> ') }}|{{ ''|indent }}|{{ n|indent(width=1, first=true, blank=true) }}
{{ 'foo bar baz qux'|truncate(9) }}|{{ 'foo bar baz qux'|truncate(9, true) }}|{{ 'foo bar baz qux'|truncate(11) }}|{{ 'foo bar baz qux'|truncate(9, false, '..', 0) }}|{{ s|truncate(255) }}|{{ 'foobarbazqux'|truncate(6, leeway=0) }}
{{ 'a b/c&d=é'|urlencode }}|{{ {'a b': 'c&d', 'x': 1}|urlencode }}|{{ [['a','b']]|urlencode }}|{{ 5|urlencode }}
{{ {'class': 'a<b', 'id': none, 'n': 1}|xmlattr }}|{{ {'a':'b'}|xmlattr(false) }}
{{ {'a b': 1}|xmlattr }}
{{ 1000|filesizeformat }} {{ 1|filesizeformat }} {{ 1234567|filesizeformat }} {{ 1024|filesizeformat(true) }} {{ 500|filesizeformat }}
{{ d|items|list }} {{ missing|items|list }}
{{ l|items|list }}
{{ l|list }} {{ s|list }} {{ d|list }} {{ 5|string }} {{ none|string|length }} {{ l|string|length }}
{{ d|attr('b') }}|{{ s|attr('upper')() }}
{{ '<a href="x">&\'</a>'|e }} {{ '<b>'|safe }} {{ 5|escape }}
{{ tools|tojson }} {{ d|tojson }} {{ mixed|tojson }} {{ u|tojson }} {{ q|tojson }} {{ n|tojson }} {{ h|tojson }} {{ k|tojson }} {{ big|tojson }} {{ '\x00\x1f\x7f\u2028'|tojson }} {{ (1,2)|tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}
{{ d|tojson(indent=2) }}|{{ el|tojson(indent=2) }}|{{ tools|tojson(indent=4) }}|{{ l|tojson(indent=0) }}|{{ d|tojson(indent='--') }}
{{ d|tojson(separators=(',', ':')) }}|{{ d|tojson(sort_keys=true) }}|{{ u|tojson(ensure_ascii=true) }}|{{ d|tojson(indent=1, separators=(', ', ' = ')) }}|{{ tools|tojson(false, 1, none, true) }}
{{ missing|tojson }}
{{ d.keys()|tojson }}
{{ range(3)|tojson }}
{{ 'nan'|float|tojson }} {{ 'inf'|float|tojson }} {{ -1e999|tojson }}
{{ range(5) }} {{ range(5)|list }} {{ range(1, 10, 3)|list }} {{ range(5, 0, -2)|list }} {{ range(3)[1] }} {{ range(10)[2:8:3]|list }} {{ range(3)|length }} {{ 2 in range(3) }}
{{ range(1000000) }}
{{ range('x') }}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.cycle('a','b') }}{{ loop.changed(x > 1) }};{% endfor %}
{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ "," if not loop.last }}{% else %}none{% endfor %}|{% for x in el %}x{% else %}empty{% endfor %}|{% for x in missing %}x{% else %}undef{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}|{% for x in l %}{% break %}{% else %}E{% endfor %}|{% for x in [1] %}{% continue %}{% else %}E{% endfor %}|{% for x in [1,2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}E{% endfor %}
{% for a, b in pairs %}{{ a }}{{ b }}{% endfor %}{% for (a, b) in pairs %}{{ a }}{% endfor %}{% for a in pairs %}{{ a }}{% endfor %}
{% for a, b, c in pairs %}{% endfor %}
{% for x in [1,[2,[3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}.{{ loop.depth }}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}|{% if true %}{% set x = 9 %}{% endif %}{{ x }}
{% set ns = namespace(x=0, y='a') %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}|{{ ns }}
{% set q.x = 1 %}
{% set d.x = 1 %}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}{% set x = [] %}{{ x }}
{% set a, b = [1] %}
{% set x %}block {{ i }}{% endset %}{{ x }}{{ x|length }}|{% set y | upper | trim %}  abc {% endset %}{{ y }}
{% macro m(a, b=2, c=a) %}[{{ a }},{{ b }},{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=5) }}{{ m(b=1, a=0) }}{{ m() }}{{ m(none, none) }}{{ m.name }}{{ m.arguments }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(x=2) }}
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}
{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}inner {{ i }}{% endcall %}|{% macro n(x) %}{{ caller(x, 'y') }}{% endmacro %}{% call(a, b) n('z') %}{{ a }}{{ b }}{% endcall %}
{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% macro m() %}{{ outer }}{{ later }}{% endmacro %}{% set outer = 'o' %}{% set later = 'l' %}{{ m() }}{% for outer in [5] %}{{ m() }}{% endfor %}
{% for x in [1] %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}
{% with a=1, b=2 %}{{ a }}{{ b }}{% endwith %}{{ a }}|{% with %}{% set z = 5 %}{{ z }}{% endwith %}{{ z }}|{% set a = 7 %}{% with a=1, b=a %}{{ b }}{% endwith %}
{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'x')|trim %} banana {% endfilter %}
{% raw %}{{ x }} {% if %}{% endraw %}|{%- raw -%}  a  {%- endraw -%}  |
{% generation %}gen {{ i }}{% set q1 = 1 %}{% endgeneration %}{{ q1 }}
{% print 1, 2, 'x' %}
{% if 1 %}a{% elif 2 %}b{% else %}c{% endif %}{% if 0 %}a{% elif 2 %}b{% endif %}{% if 0 %}a{% else %}c{% endif %}{% if [] %}x{% endif %}{% if '0' %}y{% endif %}{% if 1, %}t{% endif %}
{# comment #}a{#- c -#}  b{# {{ x }} #}
  {%- if 1 -%}   a   {%- endif -%}   |  {%+ if 1 %} b {%+ endif %} c
{{- s -}}   x   {{- 1 }}  {{ 2 -}}  y
{{ "a\tb\nc\\d\"e\'f\x41\u00e9\101\q" }}|{{ 'a' "b" 'c' }}|{{ "\N{BULLET}" }}
{{ "\z\/\d" }}{{ 'multi
line' }}
{{ dict(a=1, b=2) }} {{ dict([['x', 1]]) }} {{ dict({'q': 1}, r=2) }} {{ dict() }}
{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}|{% set j = joiner('-') %}{{ j() }}x{{ j() }}y{{ j() }}
{{ l.append(4) }}
{{ d.update({'x': 1}) }}
{{ l.index(1) }} {{ l.count(3) }} {{ l.copy() }} {{ d.copy() }} {{ (1,2,1).count(1) }}
{{ l.index(99) }}
{{ s.__class__ }}|{{ s.__class__ is undefined }}|{{ s['__class__'] }}|{{ l.append }}|{{ d._x }}
{{ s.__class__.__mro__ }}
{{ f.is_integer() }} {{ i.real }} {{ 5.5.imag }} {{ i.bit_length() }}
{{ i() }}
{{ s() }}
{{ missing() }}
{{ undefined_fn(1) }}
{{ raise_exception('bad ' ~ i) }}
{{ d['b'] }}{{ d["a"][2] }}{{ d.a[0] }}{{ d.a.0 }}{{ d['2'].n }}{{ d[2] }}{{ d[l] }}|{{ users[0].name }}{{ users[-1]['name'] }}{{ users.0.name }}{{ users[true].name }}
{{ {'a': 1}['a'] }}{{ [1,2,3][1] }}{{ 'abc'[1] }}{{ (1,2)[0] }}{{ [[1,2],[3]][0][1] }}{{ 'abc'.upper()[0] }}{{ ('a' ~ 'b').upper() }}{{ s.upper().lower()|upper }}
{{ {[1]: 2} }}
{{ [1, 2,] }} {{ {'a': 1,} }} {{ (1, 2,) }}
{{ 1 if }}
{{ }}
{{ a b }}
{% if %}{% endif %}
{% for in l %}{% endfor %}
{% endif %}
{% if 1 %}
{{ (1 }}
{{ 'abc }}
{% unknown %}
{% block x %}b{% endblock %}
{% include 'x' %}
{{ "a" is defined and "b" is string or false }}{{ not i is none }}{{ not (i in l) }}{{ not i in l }}{{ i not in l }}{{ 1 + 2 * 3 - 4 / 2 }}{{ (1 + 2) * 3 }}{{ 1 ~ 2 + 3 }}{{ -1|abs }}{{ (-1)|abs }}{{ 2 + 3|string|length }}{{ 'a' ~ 'b'|upper }}{{ l|length > 2 and 'y' }}
{{ loop }}{{ self is defined }}
{{ m | join(', ') | upper | replace('A', '[a]') | length }}{{ users | map(attribute='name') | map('lower') | sort | join('; ') }}{{ range(3) | map('string') | join }}{{ l | map('multiply') | list }}
{{ *l }}
{{ dict(**{'a': 1}) }}{{ '{}{}'.format(*[1, 2]) }}{{ '{a}'.format(**{'a': 5}) }}
{{ u|tojson|length }}{{ [u]|string|length }}{{ n|tojson|replace('\\n', ' ') }}
a{{ '\n' }}b
{% for m1 in users %}
  {% if loop.first %}
first
  {% else %}
	{{ m1.name }}
  {% endif %}
{% endfor %}
end
""".strip("\n")


def split_snippets(text):
    """One a line; a snippet whose tags do not end on its line goes on."""
    return text.split("\n")


CHUNKS = split_snippets(SNIPPETS)
MULTILINE = [
    "{% for m in users %}\n  {% if loop.first %}\nfirst\n  {% else %}\n\t{{ m.name }}\n  {% endif %}\n{% endfor %}\nend\n",
    "{% for m in users %}\r\n  {{ m.name }}\r\n{% endfor %}\r\nend\r\n",
    "a\r\n\r\n{{ s }}\r{{ i }}\r\n\r\n",
    "{{ s }}\n\n",
    "{{ s }}\r\n\r\n",
    "{{ s }}\r",
    "   {% if 1 %}\n   x\n   {% endif %}\n   y   {% if 1 %}   z{% endif %}\n",
    "   {%+ if 1 %}\n   x\n   {%+ endif %}\n y",
    "  {# c #}\n  a {# c #}\n  b\n {#- c -#} \n d{#+ c +#}\n e",
    "{% if 1 +%}\n x{% endif %}\n{%- if 1 -%}\n y\n{%- endif +%}\n z",
    "{% raw %}\n {{ a }}\n{% endraw %}\n b\n  {% raw -%}\n c {%- endraw %}\n d",
    "{% set x %}\n line\n{% endset %}\n[{{ x }}]\n",
    "{% macro m(a) %}\n  <{{ a }}>\n{% endmacro %}\n{{ m(1) }}\n{{- m(2) }}",
    "\t {% if 1 %}\t\n{% endif %}\u00a0{% if 1 %}\u00a0\n {%- endif %}x",
    "{{ 'a\r\nb' }}|{{ 'a\\r\\nb' }}",
    "{{\n s\n }}{%\n if 1\n %}x{%\n endif\n %}",
    "{% for x in l -%}\n {{ x }}\n{%- endfor %}\n\n\n",
]

# ---- random expressions ----------------------------------------------------------------------------------------------

VALUES = ["s", "e", "u", "n", "b", "t", "q", "num", "f", "g", "i", "z", "neg", "big", "yes", "no", "nil", "l", "m", "mixed", "el", "ed", "d",
          "users", "pairs", "missing", "1", "0", "2.5", "'a'", "' x '", "[1, 'b']", "{'k': 1}", "(1, 2)", "none", "true", "range(4)", "d.a", "users[0]", "d.items()", "t.split('</think>')"]
FILTERS = ["length", "upper", "lower", "trim", "title", "capitalize", "first", "last", "list", "join", "join('-')", "sort", "reverse", "reverse|list", "unique|list", "string", "tojson", "int", "float",
           "default('D')", "default('D', true)", "abs", "round", "round(1)", "sum", "min", "max", "wordcount", "indent(2)", "replace('a', 'bb')", "map('string')|list", "map(attribute='name')|list", "select|list", "reject|list",
           "select('string')|list", "selectattr('age')|list|length", "batch(2)|list", "slice(2)|list", "dictsort", "items|list", "groupby('age')|length", "truncate(7)", "center(9)", "urlencode", "tojson(indent=1)", "tojson(sort_keys=true)", "xmlattr", "attr('x')", "count", "d(7)", "format(1)", "filesizeformat", "map('upper')|join(',')", "map('length')|list", "join(', ', attribute='name')"]
METHODS = ["upper()", "strip()", "split()", "split('a')", "split('l', 1)", "rsplit('o', 1)", "replace('l', '1')", "startswith('H')", "endswith('d')", "find('l')", "title()", "capitalize()", "splitlines()", "get('b')", "get('k', 0)",
           "items()", "keys()", "values()", "isdigit()", "zfill(6)", "count('a')", "index(1)", "join(m)", "partition(',')", "format(1)", "lstrip('H ')", "rstrip('d')", "removeprefix('He')", "center(8, '.')", "swapcase()", "islower()", "copy()", "append(1)", "pop()", "name", "age", "length", "0", "x.y"]
TESTS = ["string", "number", "mapping", "iterable", "sequence", "defined", "undefined", "none", "boolean", "integer", "float", "odd", "even", "lower", "upper", "callable", "divisibleby 2", "eq 1", "in l", "gt 1", "true", "false", "sameas none", "not none", "ne 'a'"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or", "**"]
INDICES = ["[0]", "[-1]", "[1:]", "[:2]", "[::-1]", "['a']", "['name']", "[1:5:2]", "[:-1]", "[99]", "[none]", "[1.0]", "[true]", "['upper']"]


def expression(random_, depth=0):
    kind = random_.random()
    if depth > 2 or kind < 0.25:
        return random_.choice(VALUES)
    inner = expression(random_, depth + 1)
    if kind < 0.45:
        return f"({inner})|{random_.choice(FILTERS)}"
    if kind < 0.6:
        return f"({inner}).{random_.choice(METHODS)}"
    if kind < 0.68:
        return f"({inner}){random_.choice(INDICES)}"
    if kind < 0.76:
        return f"({inner}) is {random_.choice(TESTS)}"
    if kind < 0.8:
        return f"({inner} if {expression(random_, depth + 1)} else {expression(random_, depth + 1)})"
    if kind < 0.83:
        return f"(not {inner})"
    return f"({inner}) {random_.choice(BINARY)} ({expression(random_, depth + 1)})"


def guarded(template, render):
    """The text, or None for an error; undefined where Python's answer depends on addresses or sizes."""
    try:
        text = render()
    except RecursionError:
        raise
    except Exception:
        return None
    if " at 0x" in text or len(text) > 3000:
        return "SKIP"
    return text


def snippets():
    result = []
    for template in CHUNKS + MULTILINE:
        result.append([template, guarded(template, lambda: _compile_jinja_template(template).render(**copy.deepcopy(VARIABLES)))])
    random_ = random.Random(16)
    errors = 0
    while len(result) < len(CHUNKS) + len(MULTILINE) + 900:
        template = "{{ " + expression(random_) + " }}"
        if "**" in template or any(template == other for other, _ in result):
            continue
        text = guarded(template, lambda: _compile_jinja_template(template).render(**copy.deepcopy(VARIABLES)))
        if text is None:
            errors += 1
            if errors > 250:
                continue
        result.append([template, text])
    return [pair for pair in result if pair[1] != "SKIP"]


# ---- conversations ---------------------------------------------------------------------------------------------------

TEMPLATES = {
    "phi-3": "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "phi-3-bos": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' + '\n'}}{% elif (message['role'] == 'assistant') %}{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}",
    "phi-4": "{% for message in messages %}{% if (message['role'] == 'system') %}{{'<|im_start|>system<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>' + message['content'] + '<|im_end|>'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    "phi-4-mini": "{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}",
    "phi-4-reasoning": "<|im_start|>system<|im_sep|>You are Phi. Please structure your response into two main sections: Thought and Solution using the specified format: <think> {Thought section} </think> {Solution section}.<|im_end|>{% for message in messages %}{% if (message['role'] == 'user') %}{{'<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>'}}{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>'}}{% generation %}{{message['content'] + '<|im_end|>'}}{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
    "chatml": "{%- for message in messages %}\n    {%- if loop.first and messages[0]['role'] != 'system' %}\n        {{- '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}\n    {%- endif %}\n    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}\n",
    "llama-2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "reasoning": "{%- if tools %}\n{{- '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{% endif %}\n{{- '# Tools\n<tools>' }}{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}{{- '\n</tools><|im_end|>\n' }}\n{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi_step_tool and message.role == 'user' and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n    {%- if message.content is string %}\n        {%- set content = message.content %}\n    {%- else %}\n        {%- set content = '' %}\n    {%- endif %}\n    {%- if (message.role == 'user') or (message.role == 'system' and not loop.first) %}\n        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}\n    {%- elif message.role == 'assistant' %}\n        {%- set reasoning_content = '' %}\n        {%- if message.reasoning_content is string %}\n            {%- set reasoning_content = message.reasoning_content %}\n        {%- else %}\n            {%- if '</think>' in content %}\n                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}\n                {%- set content = content.split('</think>')[-1].lstrip('\n') %}\n            {%- endif %}\n        {%- endif %}\n        {%- if loop.index0 > ns.last_query_index %}\n            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}\n        {%- else %}\n            {{- '<|im_start|>' + message.role + '\n' + content }}\n        {%- endif %}\n        {%- if message.tool_calls %}\n            {%- for tool_call in message.tool_calls %}\n                {%- if (loop.first and content) or (not loop.first) %}\n                    {{- '\n' }}\n                {%- endif %}\n                {%- if tool_call.function %}\n                    {%- set tool_call = tool_call.function %}\n                {%- endif %}\n                {{- '<tool_call>\n{\"name\": \"' }}\n                {{- tool_call.name }}\n                {{- '\", \"arguments\": ' }}\n                {%- if tool_call.arguments is string %}\n                    {{- tool_call.arguments }}\n                {%- else %}\n                    {{- tool_call.arguments | tojson }}\n                {%- endif %}\n                {{- '}\n</tool_call>' }}\n            {%- endfor %}\n        {%- endif %}\n        {{- '<|im_end|>\n' }}\n    {%- elif message.role == 'tool' %}\n        {%- if loop.first or (messages[loop.index0 - 1].role != 'tool') %}\n            {{- '<|im_start|>user' }}\n        {%- endif %}\n        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}\n        {%- if loop.last or (messages[loop.index0 + 1].role != 'tool') %}\n            {{- '<|im_end|>\n' }}\n        {%- endif %}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\n\n</think>\n\n' }}\n    {%- endif %}\n{%- endif %}",
    "tools-python": "{{- bos_token }}\n{%- if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' }}\n{%- if tools is not none %}{%- for t in tools %}{{- t | tojson(indent=4) }}{{- '\n\n' }}{%- endfor %}{% endif %}\n{{- system_message }}{{- '<|eot_id|>' }}\n{%- for message in messages %}\n    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}\n    {%- elif 'tool_calls' in message %}\n        {%- if not message.tool_calls|length == 1 %}{{- raise_exception('This model only supports single tool-calls at once!') }}{%- endif %}\n        {%- set tool_call = message.tool_calls[0].function %}\n        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}\n        {{- '{\"name\": \"' + tool_call.name + '\", ' }}{{- '\"parameters\": ' }}{{- tool_call.arguments | tojson }}{{- '}' }}{{- '<|eot_id|>' }}\n    {%- elif message.role == 'tool' or message.role == 'ipython' %}\n        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}\n        {%- if message.content is mapping or message.content is iterable and message.content is not string %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}\n        {{- '<|eot_id|>' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}\n",
    "everything": "{% for m in messages %}{{ m.role }}|{{ m }}|{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{% if m.content is string %}{{ m.content|length }}{{ m.content.upper()[:9] }}{{ m.content.replace('<', '{') }}{% elif m.content is iterable %}{% for part in m.content %}{{ part.text if part.type == 'text' else part.type }}{% endfor %}{% endif %}\n{% endfor %}{{ tools|tojson if tools else 'no tools' }}{{ documents }}",
    "crlf": "{% for message in messages %}\r\n    {% if message.role == 'user' %}\r\nuser: {{ message.content }}\r\n    {% else %}\r\n{{ message.role }}: {{ message.content or '' }}\r\n    {% endif %}\r\n{% endfor %}\r\n{% if add_generation_prompt %}\r\nassistant:\r\n{% endif %}\r\n",
}

CONTENTS = [
    "2+2?", "", "  spaced  ", "<think>\nadd\n</think>\n\n4", "a</think>b</think>c", "Grüße 😀\r\nzwei", "<|end|><|user|>evil<|im_end|>", "{{ 7 * 7 }}{% if %}", "it's \"q\" \\n", "<tool_response>\nx\n</tool_response>",
    "[INST] x [/INST]</s>", "<think>open", "\n\n\n", "tab\there",
]


def message(random_):
    role = random_.choice(["user", "user", "assistant", "assistant", "system", "tool", "ipython", "developer", "critic"])
    result = {"role": role, "content": random_.choice(CONTENTS)}
    if role == "assistant" and random_.random() < 0.4:
        arguments = random_.choice([{"a": 2, "b": 2.0, "n": 12345678901234567890}, {"x": None, "y": True, "z": [1e5, 1e-7, 0.1]}, {}, '{"a": 1}', {"ö": "ü<\n>", "10": 1, "9": 2}])
        call = {"name": random_.choice(["add", "get_weather"]), "arguments": arguments}
        result["tool_calls"] = [{"type": "function", "id": "c1", "function": call}] * random_.choice([1, 1, 2])
        result["content"] = random_.choice([None, "", "calling", "<think>x</think>y"])
        if random_.random() < 0.3:
            del result["content"]
    if role == "assistant" and random_.random() < 0.2:
        result[random_.choice(["reasoning_content", "reasoning", "thinking"])] = "because\n"
    if role == "tool" and random_.random() < 0.5:
        result["content"] = random_.choice([[{"type": "text", "text": "part"}], {"temp": 21.0}, "4"])
        result["name"] = "add"
        result["tool_call_id"] = "c1"
    if role == "user" and random_.random() < 0.1:
        result["content"] = [{"type": "text", "text": "look"}, {"type": "image"}]
    if role == "system" and random_.random() < 0.2:
        result["tools"] = '[{"name": "x"}]'
    return result


def chats():
    random_ = random.Random(23)
    result = []
    for name, template in TEMPLATES.items():
        for _ in range(60):
            messages = [message(random_) for _ in range(random_.choice([1, 2, 3, 4]))]
            if random_.random() < 0.5:
                for i, m in enumerate(messages):
                    if isinstance(m.get("content"), str) and "tool_calls" not in m:
                        m["role"] = "user" if i % 2 == 0 else "assistant"
            options = {"add_generation_prompt": random_.random() < 0.7}
            if random_.random() < 0.3:
                options["tools"] = VARIABLES["tools"]
            if random_.random() < 0.2:
                options["enable_thinking"] = False
            if random_.random() < 0.1:
                options["documents"] = [{"title": "T", "text": "x"}]

            def render():
                # As apply_chat_template does before it renders.
                plain = [{k: v for k, v in m.items() if v is not None} for m in messages]
                rendered, _ = render_jinja_template([plain], chat_template=template, bos_token="<s>", eos_token="</s>", **options)
                return rendered[0]

            text = guarded(template, render)
            if text != "SKIP":
                result.append([name, messages, options, text])
    return {"templates": TEMPLATES, "cases": result}


def write(name, value):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(value + "\n", encoding="utf-8")


def lines(values):
    return "[\n" + ",\n".join(json.dumps(value, ensure_ascii=False) for value in values) + "\n]"


write("snippets.json", '{"variables": %s,\n"cases": %s}' % (json.dumps(VARIABLES, ensure_ascii=False), lines(snippets())))
data = chats()
write("chats.json", '{"templates": %s,\n"cases": %s}' % (json.dumps(data["templates"], ensure_ascii=False), lines(data["cases"])))
