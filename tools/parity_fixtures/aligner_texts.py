"""Texts of every language that the published aligner knows, for the fixtures of its words and for their times."""

TEXTS: dict[str, tuple[str, ...]] = {
    "English": (
        "Hello, world! It's three o'clock; “don't panic,” she said.",
        "The GPT-4o model -- see e.g. https://example.com/a_b -- costs $3.50 (about 3,2 €).",
        "  Spaces\tand\nlines   everywhere ... ",
        "An apostrophe ' alone, 100% sure: café, naïve, cafe\u0301.",
        "Mr. Quilter's iPhone & the McDonald's: 'quoted' words - \"twice\".",
    ),
    "German": (
        "Das ist, glaube ich, „nicht wahr“ – oder?",
        "Straßenbahn-Haltestelle: 20 Grad; Übergröße!",
    ),
    "Spanish": ("¿Qué tal? ¡Muy bien! Son las 10:30 de la mañana.", "—No sé —dijo ella—, quizás «mañana»."),
    "French": ("Aujourd'hui, c'est l'été : « n'est-ce pas ? »", "J’ai vu l’œuvre de Noël."),
    "Italian": ("Perché no? L'uomo dell'altro ieri, cioè: così.",),
    "Portuguese": ("Não, obrigado! Você disse: “até amanhã”, à noite?",),
    "Russian": ("Привет, мир! Ёжик — не кот; он сказал: «да».", "Кто-то купил 5 кг яблок."),
    "Chinese": (
        "你好，世界！今天是2024年5月1日。",
        "我用 GPT-4o 写代码，他说：“很好”。",
        "《红楼梦》（清代小说）共120回，对吗？",
        '他说"可以"，然后走了。𠀀字',
    ),
    "Cantonese": ("佢哋喺邊度呀？我唔知喎！", "聽日9點，OK？"),
    "Japanese": (
        "こんにちは、世界！今日はいい天気ですね。",
        "「東京タワー」は、1958年に完成した。",
        "私はPythonとAIを勉強しています。ﾃｽﾄ",
        "すもももももももものうち",
        "新しい iPhone を買った。㍿の話。",
    ),
    "Korean": (
        "안녕하세요, 세계! 오늘은 날씨가 좋네요.",
        "저는 2024년에 서울에서 대학교를 졸업했습니다.",
        "“정말요?” 그가 GPT-4를 물었다.",
        "한국어 문장을 띄어쓰기 없이쓰면어떻게될까요",
    ),
}
